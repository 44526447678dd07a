/* Numbers as people read them: digits that fit the spread of a score, a sign and an arrow beside every colour. */
(function () {
  "use strict";
  var DASH = "\u2013";
  var MINUS = "\u2212";

  function isNumber(value) {
    return typeof value === "number" && isFinite(value);
  }

  function deviation(values) {
    var known = values.filter(isNumber);
    if (!known.length) return 0;
    var mean = known.reduce(function (sum, value) { return sum + value; }, 0) / known.length;
    var square = known.reduce(function (sum, value) { return sum + (value - mean) * (value - mean); }, 0);
    return Math.sqrt(square / known.length);
  }

  /* Decimals with which a difference of a tenth of `scale` is still seen. */
  function digits(scale) {
    if (!scale) return 2;
    return Math.max(0, Math.min(6, 1 + Math.ceil(-Math.log(scale) / Math.LN10 - 1e-9)));
  }

  function show(value, decimals) {
    if (!isNumber(value)) return DASH;
    var text = Math.abs(value).toFixed(decimals);
    return (value < 0 && Number(text) !== 0 ? MINUS : "") + text;
  }

  /* 1, 0 or -1 of a difference as it is shown, null where it is not known. */
  function sign(value, decimals) {
    if (!isNumber(value)) return null;
    var rounded = Number(value.toFixed(decimals));
    return rounded > 0 ? 1 : rounded < 0 ? -1 : 0;
  }

  function signed(value, decimals) {
    if (!isNumber(value)) return DASH;
    return (sign(value, decimals) > 0 ? "+" : "") + show(value, decimals);
  }

  /* Up to four significant digits, for an axis or a curve. */
  function short(value) {
    if (!isNumber(value)) return DASH;
    var size = Math.abs(value);
    var text = String(Number(size.toPrecision(4)));
    if (size !== 0 && (size < 1e-3 || size >= 1e6)) {
      var parts = size.toExponential(2).split("e");
      text = Number(parts[0]) + "e" + parts[1].replace("-", MINUS).replace("+", "");
    }
    return (value < 0 ? MINUS : "") + text;
  }

  /* An arrow and a signed number: never told apart by colour alone. `tone` (up, down, same) is a colour other than the arrow's. */
  function change(value, decimals, tone) {
    var direction = sign(value, decimals);
    if (direction === null) return null;
    var name = direction > 0 ? "up" : direction < 0 ? "down" : "same";
    var arrow = direction > 0 ? "\u25b2" : direction < 0 ? "\u25bc" : "=";
    return gallery.element("span", { "class": "change " + (tone || name) }, [
      gallery.element("span", { "class": direction === 0 ? "equal" : "arrow", "aria-hidden": "true", text: arrow }),
      direction === 0 ? gallery.element("span", { "class": "unseen", text: "no change" }) : signed(value, decimals)
    ]);
  }

  gallery.numbers = {
    isNumber: isNumber, deviation: deviation, digits: digits, show: show, sign: sign, signed: signed, short: short, change: change
  };
})();
