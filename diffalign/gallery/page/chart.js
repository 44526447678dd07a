/* A line chart of a few curves: axes, a crosshair with values, smoothing, a logarithmic scale. */
(function () {
  "use strict";
  var svg = gallery.svg;
  var element = gallery.element;
  var isNumber = gallery.numbers.isNumber;
  var HEIGHT = 240, RIGHT = 14, TOP = 10, BOTTOM = 26; // pixels
  var COLOURS = 6; // in style.css; the seventh curve takes the first colour with a dash

  /* An average that forgets: over about 5 % of the points, at least 5, without the lag of a start at zero. */
  function smooth(points) {
    var keep = 1 - 2 / (Math.max(5, points.length * 0.05) + 1);
    var sum = 0, weight = 0;
    return points.map(function (point) {
      if (isNumber(point[1])) {
        sum = keep * sum + (1 - keep) * point[1];
        weight = keep * weight + (1 - keep);
      }
      return [point[0], isNumber(point[1]) ? sum / weight : null];
    });
  }

  /* At most two points a pixel, the lowest and the highest there, so that a long run draws fast and keeps its peaks. */
  function thin(points, pixels) {
    if (points.length <= 4 * pixels) return points;
    var kept = [], size = points.length / pixels;
    for (var start = 0; start < points.length; start += size) {
      var few = points.slice(Math.floor(start), Math.floor(start + size));
      var low = few[0], high = few[0];
      few.forEach(function (point) {
        if (point[1] < low[1]) low = point;
        if (point[1] > high[1]) high = point;
      });
      kept = kept.concat(low[0] < high[0] ? [low, high] : low === high ? [low] : [high, low]);
    }
    return kept;
  }

  function extent(curves, axis, usable) {
    var low = Infinity, high = -Infinity;
    curves.forEach(function (curve) {
      curve.points.forEach(function (point) {
        if (!usable(point)) return;
        low = Math.min(low, point[axis]);
        high = Math.max(high, point[axis]);
      });
    });
    return low <= high ? { low: low, high: high } : null;
  }

  function linearTicks(range, count, least) {
    var step = Math.max(least || 0, gallery.niceStep(range.high - range.low, count));
    var ticks = [];
    for (var n = Math.ceil(range.low / step - 1e-9); n * step <= range.high + step * 1e-9; n++) ticks.push(Number((n * step).toPrecision(10)));
    return ticks;
  }

  /* Powers of ten, with 2 and 5 between them where there are few. */
  function logTicks(range) {
    var ticks = [];
    var from = Math.floor(Math.log(range.low) / Math.LN10), to = Math.ceil(Math.log(range.high) / Math.LN10);
    var every = Math.max(1, Math.ceil((to - from) / 6));
    for (var power = from; power <= to; power += every) {
      (to - from > 3 ? [1] : [1, 2, 5]).forEach(function (factor) {
        var value = factor * Math.pow(10, power);
        if (value >= range.low * 0.999 && value <= range.high * 1.001) ticks.push(value);
      });
    }
    return ticks.length > 1 ? ticks : linearTicks(range, 4);
  }

  function padded(range, log) {
    if (log) {
      var factor = Math.pow(range.high / range.low, 0.05) || 1;
      return range.high > range.low ? { low: range.low / factor, high: range.high * factor } : { low: range.low / 2, high: range.high * 2 };
    }
    var room = (range.high - range.low) * 0.06 || Math.abs(range.high) * 0.1 || 1;
    return { low: range.low - room, high: range.high + room };
  }

  /* The last point at or before `step`, or the first. */
  function nearest(points, step) {
    var low = 0, high = points.length - 1;
    while (low < high) {
      var middle = Math.ceil((low + high) / 2);
      if (points[middle][0] <= step) low = middle;
      else high = middle - 1;
    }
    return points[low];
  }

  function style(at) {
    return "series-" + at % COLOURS + (at >= COLOURS ? " dashed" : "");
  }

  function swatch(at) {
    return svg("svg", { "class": "swatch " + style(at), width: 18, height: 10, "aria-hidden": "true" }, [
      svg("line", { "class": "line", x1: 1, x2: 17, y1: 5, y2: 5 })
    ]);
  }

  /* {node, draw({smooth, log}), point(step or null)}; moved(step or null) reports where the reader points. */
  gallery.chart = function (group, curves, moved) {
    var plot = element("div", {
      "class": "plot-area", tabindex: 0, role: "group", "aria-label": group + ": " + curves.length + " curves. Left and right arrows read values."
    });
    var tip = element("div", { "class": "tip", hidden: true });
    var spoken = element("p", { "class": "unseen", role: "status" });
    var dropped = element("p", { "class": "hint", hidden: true, text: "Values of zero or less have no place on a logarithmic scale and are left out." });
    var legend = element("ul", { "class": "legend" }, curves.map(function (curve, at) {
      var last = curve.points.length ? curve.points[curve.points.length - 1][1] : null;
      return element("li", {}, [swatch(at), element("span", { text: curve.name }), element("b", { title: "last value", text: gallery.numbers.short(last) })]);
    }));
    var settings = { smooth: false, log: false };
    var left = 0, smoothed = null, marks = null, toX = null, toY = null, span = null, at = null;
    plot.style.height = HEIGHT + "px";

    function usable(point) {
      return isNumber(point[1]) && (!settings.log || point[1] > 0);
    }

    function path(points, width) {
      var pen = false;
      return thin(points, width).map(function (point) {
        if (!usable(point)) { pen = false; return ""; }
        var place = toX(point[0]).toFixed(1) + " " + toY(point[1]).toFixed(1);
        var command = pen ? "L" + place : "M" + place + "h0"; // h0: a point between two gaps still shows
        pen = true;
        return command;
      }).join("");
    }

    function axes(width, ticks) {
      var lines = [];
      ticks.forEach(function (value) {
        lines.push(svg("line", { "class": "grid", x1: left, x2: width - RIGHT, y1: toY(value), y2: toY(value) }));
        lines.push(svg("text", { x: left - 8, y: toY(value) + 4, "text-anchor": "end", text: gallery.numbers.short(value) }));
      });
      linearTicks(span, Math.max(2, Math.floor(width / 110)), 1).forEach(function (value) {
        lines.push(svg("text", { x: toX(value), y: HEIGHT - 6, "text-anchor": "middle", text: gallery.numbers.short(value) }));
      });
      return lines;
    }

    function paint() {
      var width = plot.clientWidth;
      if (!width) return;
      var rangeX = extent(curves, 0, usable), rangeY = extent(curves, 1, usable);
      dropped.hidden = !settings.log || curves.every(function (curve) { return curve.points.every(function (p) { return !isNumber(p[1]) || p[1] > 0; }); });
      if (!rangeX) return gallery.replace(plot, [element("p", { "class": "notice", text: "No value to draw." })]);
      span = rangeX.low < rangeX.high ? rangeX : { low: rangeX.low - 1, high: rangeX.high + 1 };
      var range = padded(rangeY, settings.log);
      var ticks = settings.log ? logTicks(range) : linearTicks(range, 5);
      left = 14 + 8 * Math.max.apply(null, ticks.map(function (value) { return gallery.numbers.short(value).length; }));
      var scale = settings.log ? function (value) { return Math.log(value); } : function (value) { return value; };
      toX = function (step) { return left + (step - span.low) / (span.high - span.low) * (width - left - RIGHT); };
      toY = function (value) {
        return HEIGHT - BOTTOM - (scale(value) - scale(range.low)) / (scale(range.high) - scale(range.low)) * (HEIGHT - TOP - BOTTOM);
      };
      smoothed = curves.map(function (curve) { return settings.smooth ? smooth(curve.points) : curve.points; });
      var lines = curves.map(function (curve, n) {
        return svg("g", { "class": style(n) }, [
          settings.smooth ? svg("path", { "class": "line raw", d: path(curve.points, width) }) : null,
          svg("path", { "class": "line", d: path(smoothed[n], width) })
        ]);
      });
      marks = svg("g", { "class": "marks" });
      gallery.replace(plot, [
        svg("svg", { width: width, height: HEIGHT, "aria-hidden": "true" }, axes(width, ticks).concat(lines, marks)), tip
      ]);
      point(at);
    }

    function point(step) {
      at = step;
      tip.hidden = step === null;
      if (!marks || !span) return;
      gallery.replace(marks, []);
      if (step === null) return;
      var read = smoothed.map(function (points) { return points.length ? nearest(points, step) : [step, null]; });
      marks.appendChild(svg("line", { "class": "cross", x1: toX(step), x2: toX(step), y1: TOP, y2: HEIGHT - BOTTOM }));
      read.forEach(function (found, n) {
        if (usable(found)) marks.appendChild(svg("circle", { "class": style(n) + " dot", cx: toX(found[0]), cy: toY(found[1]), r: 3.5 }));
      });
      gallery.replace(tip, [element("b", { text: "step " + step })].concat(read.map(function (found, n) {
        return element("span", {}, [swatch(n), element("span", { text: curves[n].name }), element("b", { text: gallery.numbers.short(found[1]) })]);
      })));
      var room = plot.clientWidth - tip.offsetWidth;
      var beside = toX(step) < plot.clientWidth / 2 ? toX(step) + 12 : toX(step) - 12 - tip.offsetWidth;
      tip.style.left = Math.max(0, Math.min(room, beside)) + "px";
    }

    /* The step of any curve nearest to a place across the chart. */
    function stepAt(x) {
      var wanted = span.low + (x - left) / (plot.clientWidth - left - RIGHT) * (span.high - span.low);
      var best = null;
      curves.forEach(function (curve) {
        if (!curve.points.length) return;
        var before = nearest(curve.points, wanted);
        [before, curve.points[curve.points.indexOf(before) + 1]].forEach(function (candidate) {
          if (candidate && (best === null || Math.abs(candidate[0] - wanted) < Math.abs(best - wanted))) best = candidate[0];
        });
      });
      return best;
    }

    function walk(event) {
      var direction = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
      if (!direction || !span) return;
      event.preventDefault();
      var longest = curves.reduce(function (a, b) { return b.points.length > a.points.length ? b : a; }).points;
      var now = at === null ? (direction > 0 ? -1 : longest.length) : longest.indexOf(nearest(longest, at));
      var jump = Math.max(1, Math.round(longest.length / 50)) * direction;
      moved(longest[Math.max(0, Math.min(longest.length - 1, now + jump))][0]);
      spoken.textContent = tip.textContent;
    }

    gallery.listen(plot, {
      pointermove: function (event) { if (span) moved(stepAt(event.clientX - plot.getBoundingClientRect().left)); },
      pointerdown: function (event) { if (span) moved(stepAt(event.clientX - plot.getBoundingClientRect().left)); },
      pointerleave: function () { moved(null); },
      blur: function () { moved(null); },
      keydown: walk
    });
    if (window.ResizeObserver) new window.ResizeObserver(paint).observe(plot);
    else window.addEventListener("resize", paint);
    return {
      node: element("article", { "class": "card chart" }, [element("h2", { text: group }), legend, plot, dropped, spoken]),
      draw: function (now) { settings = now; paint(); },
      point: point
    };
  };
})();
