/* The Pairs page: what the model is trained on. A line of the index is [prompt, tags, scores by side, gap, flags] and, of
   some, {segments, context, condition}. */
(function () {
  "use strict";
  var element = gallery.element;
  var numbers = gallery.numbers;

  function flagCounts(index) {
    var counts = {};
    index.forEach(function (row) { row[4].forEach(function (flag) { counts["$" + flag] = (counts["$" + flag] || 0) + 1; }); });
    return Object.keys(counts).sort().map(function (key) { return { name: key.slice(1), count: counts[key] }; });
  }

  function median(values) {
    var sorted = values.filter(numbers.isNumber).sort(function (a, b) { return a - b; });
    if (!sorted.length) return null;
    return (sorted[Math.floor((sorted.length - 1) / 2)] + sorted[Math.ceil((sorted.length - 1) / 2)]) / 2;
  }

  /* Of the pairs on which a score decides, the share in which it prefers the chosen side. */
  function agreement(index, at) {
    var agree = 0, decided = 0;
    index.forEach(function (row) {
      var chosen = row[2][0][at], rejected = row[2][1][at];
      if (!numbers.isNumber(chosen) || !numbers.isNumber(rejected) || chosen === rejected) return;
      decided++;
      if (chosen > rejected) agree++;
    });
    return decided ? Math.round(100 * agree / decided) + " %" : numbers.show(null);
  }

  function fact(name, value, title) {
    return element("div", { title: title }, [element("dt", { text: name }), element("dd", { text: value })]);
  }

  gallery.pairs = function (section, header, index) {
    var gaps = index.map(function (row) { return row[3]; });
    var gapDigits = numbers.digits(numbers.deviation(gaps));
    var flags = flagCounts(index);
    var flagged = index.filter(function (row) { return row[4].length; }).length;
    var table = {
      name: "pairs", label: "Preference pairs", columns: [{ name: "chosen", detail: "" }, { name: "rejected", detail: "" }],
      base: 1, baseName: "", scores: header.scores, roles: header.roles, digits: gallery.digits(header.scores, index), index: index, frame: header,
      more: 5,
      notes: function (row) {
        return [element("span", { "class": "gap", text: "gap " + numbers.signed(row[3], gapDigits) })].concat(row[4].map(function (flag) {
          return element("span", { "class": "flag", text: "\u2691 " + flag });
        }), row[5] && row[5].context ? [element("span", { "class": "tag context", title: "What was wrong with the prompt of the rejected side", text: "wrong: " + row[5].context })] : []);
      }
    };
    var orders = gallery.textOrders(index).concat([["large", "Largest gap first"], ["small", "Smallest gap first"]]);
    var histogram = gallery.histogram("Pairs by gap", gaps, function (bin) { pick(bin); });
    var bins = [];
    for (var bin = 0; histogram && bin < histogram.count; bin++) bins.push(String(bin));
    var chosen = "";
    var listing = null;

    function pick(number) {
      listing.change("gap", chosen === String(number) ? "" : String(number));
    }

    function controls(change) {
      var order = gallery.controls.select("Order", orders, function (value) { change("order", value); });
      var flag = gallery.controls.select("Flag", [["", "any"], ["none", "no flag"]].concat(flags.map(function (item) {
        return ["is." + item.name, item.name + " (" + item.count + ")"];
      })), function (value) { change("flag", value); });
      return {
        nodes: (flags.length ? [flag.node] : []).concat(order.node),
        set: function (state) { order.set(state.order); flag.set(state.flag); showFacts(state.facts === "all"); }
      };
    }

    function choose(state, matching) {
      chosen = state.gap;
      var kept = matching.filter(function (number) {
        var mine = index[number][4];
        return state.flag === "" || (state.flag === "none" ? !mine.length : mine.indexOf(state.flag.slice(3)) >= 0);
      });
      if (histogram) {
        histogram.set(kept.map(function (number) { return gaps[number]; }), chosen === "" ? null : Number(chosen));
        if (chosen !== "") kept = kept.filter(function (number) { return histogram.bin(gaps[number]) === Number(chosen); });
      }
      if (state.order === "large") return gallery.byKey(kept, function (number) { return gaps[number]; });
      if (state.order === "small") return gallery.byKey(kept, function (number) { return gaps[number] === null ? null : -gaps[number]; });
      return gallery.byText(kept, state.order, index);
    }

    var facts = [
      fact("pairs", index.length),
      fact("median gap", numbers.signed(median(gaps), gapDigits)),
      fact("flagged", flagged)
    ];
    var main = gallery.roles.main(header);
    var agreements = gallery.roles.ordered(header).map(function (name) {
      var share = agreement(index, header.scores.indexOf(name));
      return {
        node: fact(name + " agrees", share, "Of the pairs on which this score decides, the share in which it prefers the chosen side"),
        folds: main.indexOf(name) < 0
      };
    });
    var fold = gallery.controls.fold("All " + agreements.length + " scores", "Main scores", function (all) { listing.change("facts", all ? "all" : ""); });
    fold.node.hidden = main.length === agreements.length;

    function showFacts(all) {
      fold.set(all);
      agreements.forEach(function (item) { item.node.hidden = item.folds && !all; });
    }

    listing = gallery.listing({
      section: section, tab: "pairs", table: table, controls: controls, choose: choose, filters: ["flag", "gap"], unit: ["pair", "pairs"],
      fields: {
        order: { start: "data", allowed: orders.map(function (choice) { return choice[0]; }) },
        flag: { start: "", allowed: ["none"].concat(flags.map(function (item) { return "is." + item.name; })) },
        gap: { start: "", allowed: bins },
        facts: { start: "", allowed: ["all"], look: true }
      },
      top: [element("div", { "class": "card gaps" }, [
        element("div", { "class": "card-line" }, [element("h2", { text: "Gap between chosen and rejected" }), fold.node]),
        element("dl", { "class": "facts" }, facts.concat(agreements.map(function (item) { return item.node; }))),
        histogram ? histogram.node : null,
        element("p", { "class": "hint", text: "Pick a bar to see its pairs. Under each chosen item: its scores and how far they are above the rejected one." })
      ])]
    });
    return listing;
  };
})();
