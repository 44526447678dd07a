/* The table on top: each score under the base and under the aligned model, and the change with its interval. */
(function () {
  "use strict";
  var element = gallery.element;
  var numbers = gallery.numbers;
  var WIDTH = 160, HEIGHT = 22;

  /* Up or down where the whole interval is; a guard is neither better nor worse. */
  function verdict(line) {
    if (line.role === "guard") return "same";
    if (numbers.isNumber(line.low) && line.low > 0) return "up";
    if (numbers.isNumber(line.high) && line.high < 0) return "down";
    return "same";
  }

  /* A dot for the change and a bar for its interval around a line at zero; `reach` is the value at either edge. */
  function interval(line, reach) {
    function across(value) { return WIDTH / 2 + value / (reach || 1) * (WIDTH / 2 - 6); }
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

  function largest(values) {
    return Math.max.apply(null, values.map(function (value) { return Math.abs(value || 0); }));
  }

  /* The block of one score: its name and base once, then a line per model. `parts` says which columns there are. */
  function drawScore(lines, parts) {
    var reach = largest([].concat.apply([], lines.map(function (line) { return [line.change, line.low, line.high]; })));
    if (reach < 1e-9 * largest([lines[0].base])) reach = 0; // what summing in another order leaves
    var decimals = numbers.digits(reach / 3);
    return element("tbody", {}, lines.map(function (line, at) {
      var known = numbers.isNumber(line.low) && numbers.isNumber(line.high);
      var win = numbers.isNumber(line.win_rate) ? Math.round(100 * line.win_rate) + " %" : numbers.show(null);
      return element("tr", {}, [
        at > 0 ? null : element("th", { "class": "score", scope: "rowgroup", rowspan: lines.length }, [
          element("span", { "class": "score-name", text: line.score }), gallery.roles.badge(line.role)
        ]),
        at > 0 ? null : element("td", { "class": "base", rowspan: lines.length, text: numbers.show(line.base, decimals) }),
        element("td", { "class": "model", text: line.column }),
        element("td", { "class": "aligned", text: numbers.show(line.aligned, decimals) }),
        element("td", { "class": "difference" }, [numbers.change(line.change, decimals, verdict(line)) || numbers.show(null)]),
        element("td", { "class": "range", text: known ? "[" + numbers.signed(line.low, decimals) + ", " + numbers.signed(line.high, decimals) + "]" : "" }),
        element("td", { "class": "plot" }, [interval(line, reach)]),
        parts.wins ? element("td", { "class": "wins", text: win }) : null
      ]);
    }));
  }

  function drawHead(parts) {
    var heads = [["score", "Score"], ["base", "Base"], ["model", "Model"], ["aligned", "Aligned"], ["difference", "Change"],
      ["range", "Interval"], ["plot", ""], parts.wins ? ["wins", "Win rate"] : null].filter(Boolean);
    return element("thead", {}, [element("tr", {}, heads.map(function (head) {
      return element("th", { "class": head[0], scope: "col", text: head[1] });
    }))]);
  }

  /* {node, set(all)}: a card whose further scores are folded, or null where there is no summary; toggled(all) when someone asks. */
  gallery.summary = function (lines, columns, toggled) {
    if (!lines.length) return null;
    var parts = {
      single: columns.length < 3, // the model then needs no column of its own
      wins: lines.some(function (line) { return numbers.isNumber(line.win_rate); })
    };
    var table = { scores: [], roles: [] };
    lines.forEach(function (line) {
      if (table.scores.indexOf(line.score) < 0) { table.scores.push(line.score); table.roles.push(line.role); }
    });
    var main = gallery.roles.main(table);
    var bodies = gallery.roles.ordered(table).map(function (score) {
      var mine = [];
      columns.forEach(function (column) {
        mine = mine.concat(lines.filter(function (line) { return line.score === score && line.column === column.name; }));
      });
      return { node: drawScore(mine, parts), folds: main.indexOf(score) < 0 };
    });
    var fold = gallery.controls.fold("All " + bodies.length + " scores", "Main scores", toggled);
    fold.node.hidden = main.length === bodies.length;
    return {
      node: element("div", { "class": "card summary" }, [
        element("div", { "class": "card-line" }, [element("h2", { text: "Aligned against base" }), fold.node]),
        element("table", { "class": parts.single ? "single" : null, title: "Means over the same prompts and seeds; the bar is the interval of the change, on a scale of its own for each score" }, [
          drawHead(parts)
        ].concat(bodies.map(function (body) { return body.node; })))
      ]),
      set: function (all) {
        fold.set(all);
        bodies.forEach(function (body) { body.node.hidden = body.folds && !all; });
      }
    };
  };
})();
