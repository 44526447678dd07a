/* The table on top: each score under the base and under the aligned model, and the change with its interval. */
(function () {
  "use strict";
  var element = gallery.element;
  var numbers = gallery.numbers;
  var WIDTH = 160, HEIGHT = 22;

  function verdict(line) {
    if (numbers.isNumber(line.low) && line.low > 0) return "up";
    if (numbers.isNumber(line.high) && line.high < 0) return "down";
    return "same";
  }

  /* A dot for the change and a bar for its interval around a line at zero; `reach` is the value at either edge. */
  function interval(line, reach) {
    function across(value) { return WIDTH / 2 + value / reach * (WIDTH / 2 - 6); }
    var middle = HEIGHT / 2;
    var parts = [gallery.svg("line", { "class": "zero", x1: WIDTH / 2, x2: WIDTH / 2, y1: 0, y2: HEIGHT })];
    if (numbers.isNumber(line.low) && numbers.isNumber(line.high)) {
      parts.push(gallery.svg("line", { "class": "bar", x1: across(line.low), x2: across(line.high), y1: middle, y2: middle }));
    }
    if (numbers.isNumber(line.change)) parts.push(gallery.svg("circle", { "class": "dot", cx: across(line.change), cy: middle, r: 4.5 }));
    return gallery.svg("svg", {
      "class": "interval " + verdict(line), viewBox: "0 0 " + WIDTH + " " + HEIGHT, width: WIDTH, height: HEIGHT, "aria-hidden": "true"
    }, parts);
  }

  function size(line) {
    return Math.max.apply(null, [line.change, line.low, line.high].map(function (value) { return Math.abs(value || 0); }));
  }

  function drawLine(line, reach, trained, wins) {
    var decimals = numbers.digits(reach / 3);
    var range = numbers.isNumber(line.low) && numbers.isNumber(line.high)
      ? "[" + numbers.signed(line.low, decimals) + ", " + numbers.signed(line.high, decimals) + "]" : "";
    return element("tr", {}, [
      element("th", { scope: "row" }, [
        element("span", { "class": "score-name", text: line.score }),
        element("span", { "class": trained ? "badge trained" : "badge", text: trained ? "trained on" : "held out" })
      ]),
      element("td", { "data-label": "base", text: numbers.show(line.base, decimals) }),
      element("td", { "data-label": "aligned", text: numbers.show(line.aligned, decimals) }),
      element("td", { "class": "summary-change", "data-label": "change" }, [
        numbers.change(line.change, decimals) || numbers.show(null), " ", element("span", { "class": "range", text: range })
      ]),
      element("td", { "class": "plot" }, [interval(line, reach)]),
      wins ? element("td", { "data-label": "wins", text: numbers.isNumber(line.win_rate) ? Math.round(100 * line.win_rate) + " %" : numbers.show(null) }) : null
    ]);
  }

  /* A card, or null where there is no summary. `columns` are in the order of the page; one block for each. */
  gallery.summary = function (lines, columns, trainedOn) {
    if (!lines.length) return null;
    var wins = lines.some(function (line) { return numbers.isNumber(line.win_rate); });
    var reach = {};
    lines.forEach(function (line) { reach["$" + line.score] = Math.max(reach["$" + line.score] || 0, size(line)) || 1; });
    var named = columns.filter(function (column) { return lines.some(function (line) { return line.column === column.name; }); });
    var heads = ["Score", "Base", "Aligned", "Change", ""].concat(wins ? ["Win rate"] : []);
    var bodies = named.map(function (column) {
      var mine = lines.filter(function (line) { return line.column === column.name; });
      return element("tbody", {}, [
        named.length > 1 ? element("tr", { "class": "group" }, [element("th", { colspan: heads.length, scope: "rowgroup", text: column.name })]) : null
      ].concat(mine.map(function (line) {
        return drawLine(line, reach["$" + line.score], trainedOn.indexOf(line.score) >= 0, wins);
      })));
    });
    return element("div", { "class": "card summary" }, [
      element("h2", { text: "Aligned against base" }),
      element("table", {}, [
        element("thead", {}, [element("tr", {}, heads.map(function (text) { return element("th", { scope: "col", text: text }); }))])
      ].concat(bodies)),
      element("p", { "class": "hint", text: "Means over the same prompts and seeds. Brackets and bars: the interval of the change; each score has its own scale." })
    ]);
  };
})();
