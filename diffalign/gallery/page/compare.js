/* The Compare page: rows of (prompt, seed), the base first. A line of the index is [prompt, tags, scores by column, seed]
   and, of some, {condition}. */
(function () {
  "use strict";
  var element = gallery.element;
  var numbers = gallery.numbers;

  function difference(row, column, at) {
    var mine = row[2][column], base = row[2][0];
    if (!mine || !base || !numbers.isNumber(mine[at]) || !numbers.isNumber(base[at])) return null;
    return mine[at] - base[at];
  }

  /* How far one score says better while another says worse, in units of each score's usual change; 0 where all agree. */
  function disagreements(table, column) {
    var units = table.scores.map(function (name, at) {
      return numbers.deviation(table.index.map(function (row) { return difference(row, column, at); })) || 1;
    });
    return function (number) {
      var best = 0, worst = 0;
      units.forEach(function (unit, at) {
        var change = difference(table.index[number], column, at) / unit;
        best = Math.max(best, change);
        worst = Math.min(worst, change);
      });
      return Math.min(best, -worst);
    };
  }

  gallery.compare = function (section, header, index) {
    var names = header.columns.map(function (column) { return column.name; });
    var aligned = names.slice(1);
    var ordered = gallery.roles.ordered(header);
    var comparable = aligned.length > 0 && header.scores.length > 0;
    var table = {
      name: "compare", label: "Samples by prompt and model", columns: header.columns, base: 0, baseName: "base",
      scores: header.scores, roles: header.roles, digits: gallery.digits(header.scores, index), index: index, frame: header,
      more: 4,
      notes: function (row) { return [element("span", { "class": "seed", text: "seed " + row[3] })]; }
    };
    var orders = gallery.textOrders(index);
    if (comparable) orders.push(["gain", "Largest gain first"], ["loss", "Largest loss first"]);
    if (comparable && header.scores.length > 1) orders.push(["disagreement", "Scores disagree most"]);
    var fields = {
      summary: { start: "", allowed: ["all"], look: true },
      order: { start: "data", allowed: orders.map(function (choice) { return choice[0]; }) }
    };
    if (comparable) {
      fields.score = { start: ordered[0], allowed: header.scores };
      fields.column = { start: aligned[0], allowed: aligned };
      fields.outcome = { start: "all", allowed: ["up", "same", "down"] };
    }
    var outcome = null;
    var listing = null;
    var summary = gallery.summary(header.summary, header.columns, function (all) { listing.change("summary", all ? "all" : ""); });

    function pairs(list) {
      return list.map(function (name) { return [name, name]; });
    }

    function setSummary(state) {
      if (summary) summary.set(state.summary === "all");
    }

    function controls(change) {
      function setter(name) { return function (value) { change(name, value); }; }
      var order = gallery.controls.select("Order", orders, setter("order"));
      if (!comparable) return { nodes: [order.node], set: function (state) { setSummary(state); order.set(state.order); } };
      var judge = gallery.controls.select("Judged by", pairs(ordered), setter("score"));
      var column = gallery.controls.select("Model", pairs(aligned), setter("column"));
      outcome = gallery.controls.segments("Against the base", [["all", "All"], ["up", ""], ["same", ""], ["down", ""]], setter("outcome"));
      return {
        nodes: [judge.node].concat(aligned.length > 1 ? [column.node] : [], outcome.node, order.node),
        set: function (state) {
          setSummary(state);
          judge.set(state.score);
          column.set(state.column);
          outcome.set(state.outcome);
          order.set(state.order);
        }
      };
    }

    function choose(state, matching) {
      if (!comparable) return gallery.byText(matching, state.order, index);
      var column = names.indexOf(state.column);
      var at = header.scores.indexOf(state.score);
      function change(number) { return difference(index[number], column, at); }
      function result(number) { return numbers.sign(change(number), table.digits[at]); }
      var groups = { up: [], same: [], down: [] };
      matching.forEach(function (number) {
        var sign = result(number);
        if (sign !== null) groups[sign > 0 ? "up" : sign < 0 ? "down" : "same"].push(number);
      });
      outcome.caption("up", "\u25b2 Better " + groups.up.length);
      outcome.caption("same", "= Same " + groups.same.length);
      outcome.caption("down", "\u25bc Worse " + groups.down.length);
      var kept = state.outcome === "all" ? matching : groups[state.outcome];
      if (state.order === "gain") return gallery.byKey(kept, change);
      if (state.order === "loss") return gallery.byKey(kept, function (number) { var d = change(number); return d === null ? null : -d; });
      if (state.order === "disagreement") return gallery.byKey(kept, disagreements(table, column));
      return gallery.byText(kept, state.order, index);
    }

    listing = gallery.listing({
      section: section, tab: "compare", table: table, fields: fields, controls: controls, choose: choose,
      filters: comparable ? ["outcome"] : [], unit: ["row", "rows"],
      top: [summary ? summary.node : null]
    });
    return listing;
  };
})();
