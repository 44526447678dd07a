/* A histogram whose bars filter: pale for all values, solid for those that pass the other filters. */
(function () {
  "use strict";
  var HEIGHT = 120, BINS = 30;

  /* A step of 1, 2 or 5 times a power of ten, about `span / count`. */
  gallery.niceStep = function (span, count) {
    var rough = span / count;
    var power = Math.pow(10, Math.floor(Math.log(rough) / Math.LN10));
    var share = rough / power;
    return power * (share < 1.5 ? 1 : share < 3.5 ? 2 : share < 7.5 ? 5 : 10);
  };

  /* Bins of one width with edges on round numbers, zero among them where it is within reach. */
  function binning(values) {
    var known = values.filter(gallery.numbers.isNumber);
    if (!known.length) return null;
    var low = known[0], high = low;
    known.forEach(function (value) { low = Math.min(low, value); high = Math.max(high, value); });
    var step = gallery.niceStep(high - low || Math.abs(high) || 1, BINS);
    var first = Math.floor(low / step + 1e-9);
    var count = Math.floor(high / step + 1e-9) - first + 1;
    return {
      first: first,
      count: count,
      edge: function (bin) { return Number(((first + bin) * step).toPrecision(12)); },
      of: function (value) {
        return gallery.numbers.isNumber(value) ? Math.max(0, Math.min(count - 1, Math.floor(value / step + 1e-9) - first)) : -1;
      }
    };
  }

  function counts(bins, values) {
    var totals = [];
    for (var bin = 0; bin < bins.count; bin++) totals.push(0);
    values.forEach(function (value) { var bin = bins.of(value); if (bin >= 0) totals[bin]++; });
    return totals;
  }

  /* {node, bin(value), bins, set(values, chosen)}; pick(bin) is called with the number of a bar. null without values. */
  gallery.histogram = function (label, all, pick) {
    var bins = binning(all);
    if (!bins) return null;
    var totals = counts(bins, all);
    var most = Math.max.apply(null, totals);
    var bars = totals.map(function (total, bin) {
      var solid = gallery.element("span", { "class": "solid" });
      var pale = gallery.element("span", { "class": "pale" });
      pale.style.height = 100 * total / most + "%";
      var bar = gallery.element("button", { type: "button", "class": "bin", disabled: total === 0, on: { click: function () { pick(bin); } } }, [pale, solid]);
      if (bins.edge(bin) < 0) bar.classList.add("negative");
      bar.style.setProperty("--bin", bin);
      return { node: bar, solid: solid };
    });
    var ticks = [];
    var every = Math.max(1, Math.ceil(bins.count / 6));
    for (var edge = 0; edge <= bins.count; edge++) {
      if ((bins.first + edge) % every !== 0) continue; // so that zero has a tick
      var tick = gallery.element("span", { text: gallery.numbers.short(bins.edge(edge)) });
      tick.style.left = 100 * edge / bins.count + "%";
      ticks.push(tick);
    }
    var plot = gallery.element("div", { "class": "bins" }, bars.map(function (bar) { return bar.node; }));
    plot.style.height = HEIGHT + "px";
    return {
      bin: bins.of,
      count: bins.count,
      node: gallery.element("div", { "class": "histogram", role: "group", "aria-label": label }, [
        plot, gallery.element("div", { "class": "ticks", "aria-hidden": "true" }, ticks)
      ]),
      set: function (values, chosen) {
        counts(bins, values).forEach(function (total, bin) {
          var text = gallery.numbers.short(bins.edge(bin)) + " to " + gallery.numbers.short(bins.edge(bin + 1)) + ": " + total + " of " + totals[bin];
          bars[bin].solid.style.height = 100 * total / most + "%";
          bars[bin].node.title = text;
          bars[bin].node.setAttribute("aria-label", text);
          bars[bin].node.setAttribute("aria-pressed", bin === chosen ? "true" : "false");
        });
        plot.classList.toggle("picked", chosen !== null);
      }
    };
  };
})();
