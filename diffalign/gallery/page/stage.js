/* The pictures of one row, large: all columns, one of them, or a slider between two. Zoom and pan are shared, so every
   view shows the same part of its picture; `base(true)` puts the base into every view (a flicker comparison).
   Sounds stand there as their pictures, all of them and neither enlarged nor laid over one another. */
(function () {
  "use strict";
  var element = gallery.element;
  var MOST = 24; // times enlarged
  var GAP = 16; // pixels between panes, as in lightbox.css

  function clamp(value, low, high) {
    return Math.max(low, Math.min(high, value));
  }

  function pane(table, column, layered) {
    var parts = {
      level: element("span", { "class": "levels" }),
      under: element("div", { "class": "layer under" }),
      own: element("div", { "class": "layer own" }),
      scores: element("div", { "class": "pane-scores" })
    };
    parts.view = element("div", { "class": "view" }, [parts.own].concat(column === table.base || !layered ? [] : [
      parts.under, element("span", { "class": "badge while-base", text: table.columns[table.base].name })
    ]));
    parts.node = element("figure", { "class": "pane" }, [
      element("figcaption", {}, [
        element("kbd", { text: column + 1 }),
        element("span", { "class": "column-name", title: table.columns[column].detail || null, text: table.columns[column].name }),
        parts.level
      ]),
      parts.view,
      parts.scores
    ]);
    return parts;
  }

  function slider(table, stage) {
    function choice(side, label) {
      var select = element("select", { "aria-label": label }, table.columns.map(function (column, at) {
        return element("option", { value: at, text: column.name });
      }));
      gallery.listen(select, { change: function () { stage[side] = Number(select.value); stage.draw(); } });
      return select;
    }
    var parts = {
      leftLayer: element("div", { "class": "layer left" }),
      rightLayer: element("div", { "class": "layer right" }),
      left: choice("left", "Left of the slider"),
      right: choice("right", "Right of the slider"),
      range: element("input", { type: "range", min: 0, max: 100, step: 1, value: 50, "aria-label": "Divider, percent from the left" })
    };
    gallery.listen(parts.range, { input: function () { stage.split(Number(parts.range.value)); } });
    parts.view = element("div", { "class": "view" }, [
      parts.leftLayer, parts.rightLayer,
      element("div", { "class": "divider", "aria-hidden": "true" }, [element("span", { text: "\u2194" })])
    ]);
    parts.node = element("figure", { "class": "pane slide" }, [
      parts.view,
      element("figcaption", {}, [parts.left, parts.range, parts.right])
    ]);
    return parts;
  }

  gallery.stage = function (table, turn) {
    var node = element("div", { "class": "stage", tabindex: -1, role: "group", "aria-label": "Pictures" });
    var layered = !gallery.kind(table.frame.kind).heard;
    var panes = table.columns.map(function (column, at) { return pane(table, at, layered); });
    var zoom = 1, x = 0, y = 0; // x and y: how far the middle is moved, as a share of the view
    var percent = 50;
    var text = 0; // pixels that caption and scores take; only ever grows, so that pictures keep their size from row to row
    var stage = {
      node: node, mode: "all", column: table.base, left: table.base,
      right: table.base === 0 ? table.columns.length - 1 : 0,
      row: null, samples: null, shown: [],
      clips: [], drawn: null // what of it a clock moves, and who is told when that is new
    };
    var slide = slider(table, stage);
    panes.concat(slide).forEach(function (parts) { node.appendChild(parts.node); });

    function place() {
      var room = (zoom - 1) / 2;
      x = clamp(x, -room, room);
      y = clamp(y, -room, room);
      node.style.setProperty("--zoom", zoom);
      node.style.setProperty("--x", 100 * x + "%");
      node.style.setProperty("--y", 100 * y + "%");
      node.classList.toggle("zoomed", zoom > 1);
    }

    /* Enlarge by `factor`, keeping the point at (u, v), shares of the view from its middle, where it is. */
    stage.zoom = function (factor, u, v) {
      var next = clamp(zoom * factor, 1, MOST);
      x = (u || 0) - ((u || 0) - x) * next / zoom;
      y = (v || 0) - ((v || 0) - y) * next / zoom;
      zoom = next;
      place();
    };
    stage.reset = function () { zoom = 1; place(); };

    stage.split = function (value) {
      percent = clamp(value, 0, 100);
      slide.range.value = Math.round(percent);
      node.style.setProperty("--split", percent + "%");
    };

    stage.base = function (on) { node.classList.toggle("show-base", on); };

    /* As many panes side by side as make the pictures largest; then the views as large as the text below leaves room. */
    stage.fit = function () {
      var visible = panes.concat(slide).filter(function (parts) { return !parts.node.hidden; });
      var ratio = table.frame.width / table.frame.height;
      var best = 1, most = 0;
      function size(across, text) {
        var down = Math.ceil(visible.length / across);
        var width = (node.clientWidth + GAP) / across - GAP;
        return Math.floor(Math.min(width, ((node.clientHeight + GAP) / down - GAP - text) * ratio));
      }
      for (var across = 1; across <= visible.length; across++) {
        var width = size(across, 48 + 22 * Math.ceil(stage.shown.length * 190 * across / node.clientWidth));
        if (width > most * 1.02) { most = width; best = across; }
      }
      node.style.setProperty("--across", best);
      text = visible.reduce(function (tallest, parts) { return Math.max(tallest, parts.node.offsetHeight - parts.view.offsetHeight); }, text);
      node.style.setProperty("--view", Math.max(64, size(best, text)) + "px");
    };
    stage.refit = function () { text = 0; stage.fit(); };

    function lay(layer, column, visible) {
      var record = stage.samples[column];
      var node = gallery.draw(record, stage.row[0], "large");
      gallery.replace(layer, [node]);
      if (visible && record && gallery.kind(record.kind).timed) stage.clips.push({ node: node, record: record, column: column });
    }

    /* Call after any change of mode, column, left, right, row, samples or shown. */
    stage.draw = function () {
      node.setAttribute("data-mode", stage.mode);
      slide.node.hidden = stage.mode !== "slide";
      panes.forEach(function (parts, at) {
        parts.node.hidden = stage.mode === "slide" || (stage.mode === "one" && at !== stage.column);
      });
      slide.left.value = String(stage.left);
      slide.right.value = String(stage.right);
      if (!stage.samples) return stage.fit();
      stage.clips = [];
      panes.forEach(function (parts, at) {
        lay(parts.own, at, !parts.node.hidden);
        if (at !== table.base && layered) lay(parts.under, table.base, !parts.node.hidden);
        gallery.replace(parts.level, gallery.level.note(stage.samples[at], at === table.base ? null : stage.samples[table.base]));
        gallery.replace(parts.scores, [gallery.scores(table, stage.row, at, stage.shown)]);
        var sample = stage.samples[at];
        parts.node.setAttribute("data-candidate", sample ? sample.id : "");
        parts.node.title = sample && sample.id ? sample.id : "";
      });
      if (layered) lay(slide.leftLayer, stage.left, !slide.node.hidden);
      if (layered) lay(slide.rightLayer, stage.right, !slide.node.hidden);
      if (stage.drawn) stage.drawn();
      stage.fit();
      node.classList.add("ready"); // not before the text is there: it decides how large the pictures are
    };

    if (layered) gallery.pointers(node, stage, {
      zoomed: function () { return zoom > 1; },
      pan: function (dx, dy) { x += dx; y += dy; place(); },
      turn: turn
    });
    node.style.setProperty("--ratio", table.frame.width + " / " + table.frame.height);
    node.setAttribute("data-kind", table.frame.kind);
    place();
    stage.split(50);
    return stage;
  };
})();
