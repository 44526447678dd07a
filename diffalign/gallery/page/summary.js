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

  /* The block of one score: its name and base once, then a line per model. */
  function drawScore(lines, trained, wins) {
    var reach = Math.max.apply(null, lines.map(size)) || 1;
    var decimals = numbers.digits(reach / 3);
    return element("tbody", {}, lines.map(function (line, at) {
      var known = numbers.isNumber(line.low) && numbers.isNumber(line.high);
      var win = numbers.isNumber(line.win_rate) ? Math.round(100 * line.win_rate) + " %" : numbers.show(null);
      return element("tr", {}, [
        at > 0 ? null : element("th", { scope: "rowgroup", rowspan: lines.length }, [
          element("span", { "class": "score-name", text: line.score }),
          element("span", { "class": trained ? "badge trained" : "badge", text: trained ? "trained on" : "held out" })
        ]),
        at > 0 ? null : element("td", { "class": "base", rowspan: lines.length, text: numbers.show(line.base, decimals) }),
        element("td", { "class": "model", text: line.column }),
        element("td", { "class": "aligned", text: numbers.show(line.aligned, decimals) }),
        element("td", { "class": "difference" }, [numbers.change(line.change, decimals) || numbers.show(null)]),
        element("td", { "class": "range", text: known ? "[" + numbers.signed(line.low, decimals) + ", " + numbers.signed(line.high, decimals) + "]" : "" }),
        element("td", { "class": "plot" }, [interval(line, reach)]),
        wins ? element("td", { "class": "wins", text: win }) : null
      ]);
    }));
  }

  /* A card that folds, or null where there is no summary. Lines keep the order of their scores and of the columns. */
  gallery.summary = function (lines, columns, trainedOn) {
    if (!lines.length) return null;
    var wins = lines.some(function (line) { return numbers.isNumber(line.win_rate); });
    var scores = [];
    lines.forEach(function (line) { if (scores.indexOf(line.score) < 0) scores.push(line.score); });
    var heads = ["Score", "Base", "Model", "Aligned", "Change", "Interval", ""].concat(wins ? ["Win rate"] : []);
    var bodies = scores.map(function (score) {
      var mine = [];
      columns.forEach(function (column) {
        mine = mine.concat(lines.filter(function (line) { return line.score === score && line.column === column.name; }));
      });
      return drawScore(mine, trainedOn.indexOf(score) >= 0, wins);
    });
    return element("details", { "class": "card summary", open: true }, [
      element("summary", {}, [element("h2", { text: "Aligned against base" })]),
      element("table", { title: "Means over the same prompts and seeds; the bar is the interval of the change, on a scale of its own for each score" }, [
        element("thead", {}, [element("tr", {}, heads.map(function (text) { return element("th", { scope: "col", text: text }); }))])
      ].concat(bodies))
    ]);
  };
})();
