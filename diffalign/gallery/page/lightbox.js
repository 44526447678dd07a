/* One row over the whole window, with every key of the comparison. The dialog element keeps the focus inside. */
(function () {
  "use strict";
  var element = gallery.element;

  function button(text, label, press, attributes) {
    var settings = attributes || {};
    settings.type = "button";
    settings["aria-label"] = label;
    settings.title = label;
    settings.on = settings.on || { click: press };
    return element("button", settings, [text]);
  }

  function modes(table, choose) {
    var items = table.columns.map(function (column, at) {
      return { mode: "one", column: at, text: (at + 1) + "  " + column.name, label: "Only " + column.name };
    });
    items.unshift({ mode: "all", text: "All", label: "All columns" });
    items.push({ mode: "slide", text: "Slider", label: "Slider between two columns" });
    return items.map(function (item) {
      item.node = button(item.text, item.label, function () { choose(item.mode, item.column); }, { "class": "mode" });
      return item;
    });
  }

  function focusable(dialog) {
    return Array.prototype.filter.call(dialog.querySelectorAll("button, select, input"), function (node) {
      return !node.disabled && node.offsetParent !== null;
    });
  }

  /* options: table, order (row numbers), at (place in it), column (or null), shown (scores), smooth,
     moved(number), closed(place). */
  gallery.lightbox = function (options) {
    var table = options.table;
    var several = table.columns.length > 1;
    var at = options.at;
    var stage = gallery.stage(table, turn);
    var place = element("p", { "class": "place" });
    var prompt = element("h2", { "class": "lightbox-prompt", dir: "auto" });
    var notes = element("p", { "class": "notes" });
    var bar = several ? modes(table, choose) : [];
    var hold = button("Hold for " + table.columns[table.base].name, "Hold to see " + table.columns[table.base].name + " everywhere", null, {
      "class": "hold",
      on: {
        pointerdown: function () { stage.base(true); }, pointerup: release, pointerleave: release, pointercancel: release,
        keydown: function (event) { if (event.key === " " || event.key === "Enter") stage.base(true); }, keyup: release, blur: release
      }
    });
    var dialog = element("dialog", { "class": "lightbox", "aria-label": "Row, enlarged", "data-smooth": options.smooth ? "1" : null }, [
      element("header", {}, [
        element("div", { "class": "lightbox-text", "aria-live": "polite" }, [prompt, notes]),
        element("div", { "class": "lightbox-turn" }, [
          place,
          button("\u2190", "Previous row (left arrow)", function () { turn(-1); }, { "class": "icon" }),
          button("\u2192", "Next row (right arrow)", function () { turn(1); }, { "class": "icon" }),
          button("\u00d7", "Close (Escape)", function () { dialog.close(); }, { "class": "icon close" })
        ])
      ]),
      stage.node,
      element("footer", {}, [
        element("div", { "class": "modes", role: "group", "aria-label": "What to show" }, bar.map(function (item) { return item.node; })),
        several ? hold : null,
        element("div", { "class": "zooms", role: "group", "aria-label": "Zoom" }, [
          button("\u2212", "Zoom out (\u2212)", function () { stage.zoom(1 / 1.5); }, { "class": "icon" }),
          button("1:1", "Reset the zoom (0)", stage.reset, { "class": "icon" }),
          button("+", "Zoom in (+)", function () { stage.zoom(1.5); }, { "class": "icon" })
        ]),
        element("p", { "class": "keys", "aria-label": "Keys" }, hints(several))
      ])
    ]);

    function release() { stage.base(false); }

    function turn(by) {
      var next = at + by;
      if (next >= 0 && next < options.order.length) go(next);
    }

    function go(next) {
      at = next;
      var number = options.order[at];
      var row = table.index[number];
      prompt.textContent = row[0];
      prompt.title = row[0];
      gallery.replace(notes, table.notes(row).concat(gallery.tags(row)));
      place.textContent = (at + 1) + " / " + options.order.length;
      options.moved(number);
      gallery.samples(table.name, number, function (samples) {
        if (options.order[at] !== number || !dialog.open) return;
        stage.row = row;
        stage.samples = samples || table.columns.map(function () { return null; });
        stage.draw();
      });
      [at + 1, at - 1].forEach(function (beside) {
        if (beside < 0 || beside >= options.order.length) return;
        gallery.samples(table.name, options.order[beside], function (samples) { (samples || []).forEach(gallery.preload); });
      });
    }

    /* In the slider a column goes to its right side; asking twice for one column shows all again. */
    function choose(mode, column) {
      if (!several || (mode === "one" && column >= table.columns.length)) return;
      if (mode === "one" && stage.mode === "slide" && column !== stage.left) stage.right = column;
      else if (mode === stage.mode && (mode === "slide" || column === stage.column)) stage.mode = "all";
      else stage.mode = mode;
      if (mode === "one") stage.column = column;
      bar.forEach(function (item) {
        var on = item.mode === stage.mode && (item.mode !== "one" || item.column === stage.column);
        item.node.setAttribute("aria-pressed", on ? "true" : "false");
      });
      stage.draw();
    }

    function key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Tab") return trap(event);
      var control = event.target.closest ? event.target.closest("input, select, button") : null;
      var typed = event.key.length === 1 ? event.key.toLowerCase() : event.key;
      if (control && control.tagName !== "BUTTON" && typed !== "Escape") return; // the slider and the lists keep their keys
      if (control && (typed === " " || typed === "Enter")) return;
      if (typed === "ArrowLeft") turn(-1);
      else if (typed === "ArrowRight") turn(1);
      else if (typed >= "1" && typed <= "9") choose("one", Number(typed) - 1);
      else if (typed === "a") choose("all");
      else if (typed === "s") choose("slide");
      else if (typed === "+" || typed === "=") stage.zoom(1.5);
      else if (typed === "-") stage.zoom(1 / 1.5);
      else if (typed === "0") stage.reset();
      else if (typed === " " || typed === "b") stage.base(true);
      else return;
      event.preventDefault();
    }

    function trap(event) {
      var nodes = focusable(dialog);
      var last = nodes[nodes.length - 1];
      var inside = nodes.indexOf(document.activeElement) >= 0;
      if (event.shiftKey && (!inside || document.activeElement === nodes[0])) last.focus();
      else if (!event.shiftKey && document.activeElement === last) nodes[0].focus();
      else return;
      event.preventDefault();
    }

    /* After a click the keys belong to the pictures again; who came by Tab keeps their place. */
    function clicked(event) {
      if (event.detail > 0 && dialog.open && !event.target.closest("select")) stage.node.focus({ preventScroll: true });
    }

    function closed() {
      window.removeEventListener("resize", stage.refit);
      window.removeEventListener("blur", release);
      document.documentElement.classList.remove("has-lightbox");
      document.body.removeChild(dialog);
      options.closed(at);
    }

    gallery.listen(dialog, {
      keydown: key, click: clicked, close: closed,
      keyup: function (event) { if (event.key === " " || event.key === "b" || event.key === "B") release(); }
    });
    window.addEventListener("resize", stage.refit);
    window.addEventListener("blur", release);
    stage.shown = options.shown;
    document.body.appendChild(dialog);
    document.documentElement.classList.add("has-lightbox");
    dialog.showModal();
    stage.node.focus();
    choose("all");
    if (options.column !== null && several) stage.column = options.column;
    go(at);
    return { close: function () { dialog.close(); } };
  };

  function hints(several) {
    var keys = [["\u2190 \u2192", "row"]];
    if (several) keys.push(["1\u20139", "column"], ["A", "all"], ["hold Space", "base"], ["S", "slider"]);
    keys.push(["+ \u2212 0", "zoom"], ["Esc", "close"]);
    return keys.map(function (pair) {
      return element("span", {}, [element("kbd", { text: pair[0] }), " " + pair[1]]);
    });
  }
})();
