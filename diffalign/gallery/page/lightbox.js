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

  /* Of sounds only which one is heard: all are always seen. */
  function modes(table, sounds, choose) {
    var items = table.columns.map(function (column, at) {
      return { mode: "one", column: at, text: (at + 1) + "  " + column.name, label: (sounds ? "Listen to " : "Only ") + column.name };
    });
    if (!sounds) items.unshift({ mode: "all", text: "All", label: "All columns" });
    if (!sounds) items.push({ mode: "slide", text: "Slider", label: "Slider between two columns" });
    return items.map(function (item) {
      item.node = button(item.text, item.label, function () { choose(item.mode, item.column); }, { "class": "mode" });
      return item;
    });
  }

  function focusable(dialog) {
    return Array.prototype.filter.call(dialog.querySelectorAll("button, select, input, [role=slider]"), function (node) {
      return !node.disabled && node.offsetParent !== null;
    });
  }

  /* options: table, order (row numbers), at (place in it), column (or null), shown (scores), smooth, level (of sounds: called with
     whether they are matched, as an address says it), moved(number), closed(place). */
  gallery.lightbox = function (options) {
    var table = options.table;
    var several = table.columns.length > 1;
    var kind = gallery.kind(table.frame.kind);
    var sounds = Boolean(kind.heard);
    var at = options.at;
    var fresh = true; // another row than before
    var stage = gallery.stage(table, turn);
    var place = element("p", { "class": "place" });
    var prompt = element("h2", { "class": "lightbox-prompt", dir: "auto" });
    var notes = element("p", { "class": "notes" });
    var bar = several ? modes(table, sounds, choose) : [];
    var deck = kind.timed ? gallery.deck(table, press) : null;
    var other = table.base === 0 ? table.columns.length - 1 : 0; // which sound B switches to from the base
    var matched = sounds && gallery.level.works() ? gallery.level.control(options.level) : null;
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
      deck ? deck.node : null,
      element("footer", {}, [
        element("div", { "class": "modes", role: "group", "aria-label": sounds ? "What to listen to" : "What to show" }, bar.map(function (item) { return item.node; })),
        several && !sounds ? hold : null,
        several && sounds ? button("A/B", "Switch between " + table.columns[table.base].name + " and another, at the same moment (B)", swap, { "class": "hold" }) : null,
        matched ? matched.node : null,
        sounds ? null : element("div", { "class": "zooms", role: "group", "aria-label": "Zoom" }, [
          button("\u2212", "Zoom out (\u2212)", function () { stage.zoom(1 / 1.5); }, { "class": "icon" }),
          button("1:1", "Reset the zoom (0)", stage.reset, { "class": "icon" }),
          button("+", "Zoom in (+)", function () { stage.zoom(1.5); }, { "class": "icon" })
        ]),
        element("p", { "class": "keys", "aria-label": "Keys" }, hints(several, Boolean(deck), sounds))
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
        fresh = stage.row !== row;
        stage.row = row;
        stage.samples = samples || table.columns.map(function () { return null; });
        stage.draw();
      });
      [at + 1, at - 1].forEach(function (beside) {
        if (beside < 0 || beside >= options.order.length) return;
        gallery.samples(table.name, options.order[beside], function (samples) { (samples || []).forEach(gallery.preload); });
      });
    }

    /* Which of the buttons below are on. */
    function press() {
      bar.forEach(function (item) {
        var on = sounds ? item.column === deck.heard() : item.mode === stage.mode && (item.mode !== "one" || item.column === stage.column);
        item.node.setAttribute("aria-pressed", on ? "true" : "false");
      });
      if (sounds && deck.heard() !== table.base) other = deck.heard();
    }

    function swap() {
      if (several) deck.hear(deck.heard() === table.base ? other : table.base);
    }

    /* In the slider a column goes to its right side; asking twice for one column shows all again. Of sounds it is the one heard. */
    function choose(mode, column) {
      if (!several || (mode === "one" && column >= table.columns.length)) return;
      if (sounds) return deck.hear(column);
      if (mode === "one" && stage.mode === "slide" && column !== stage.left) stage.right = column;
      else if (mode === stage.mode && (mode === "slide" || column === stage.column)) stage.mode = "all";
      else stage.mode = mode;
      if (mode === "one") stage.column = column;
      press();
      stage.draw();
    }

    function key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Tab") return trap(event);
      var control = event.target.closest ? event.target.closest("input, select, button, [role=slider]") : null;
      var typed = event.key.length === 1 ? event.key.toLowerCase() : event.key;
      if (control && control.tagName !== "BUTTON" && typed !== "Escape") return; // the slider and the lists keep their keys
      if (control && (typed === " " || typed === "Enter")) return;
      if (deck && deck.key(event)) return event.preventDefault();
      if (sounds && typed === "b") swap();
      else if (typed === "ArrowLeft") turn(-1);
      else if (typed === "ArrowRight") turn(1);
      else if (typed >= "1" && typed <= "9") choose("one", Number(typed) - 1);
      else if (sounds) return;
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
      if (event.detail > 0 && dialog.open && !event.target.closest("select, [role=slider]")) stage.node.focus({ preventScroll: true });
    }

    function closed() {
      window.removeEventListener("resize", stage.refit);
      window.removeEventListener("blur", release);
      document.documentElement.classList.remove("has-lightbox");
      document.body.removeChild(dialog);
      if (deck) deck.close();
      gallery.clocks.hold("behind", false);
      options.closed(at);
    }

    gallery.listen(dialog, {
      keydown: key, click: clicked, close: closed,
      keyup: function (event) { if (event.key === " " || event.key === "b" || event.key === "B") release(); }
    });
    window.addEventListener("resize", stage.refit);
    window.addEventListener("blur", release);
    stage.shown = options.shown;
    if (deck) {
      gallery.clocks.hold("behind", true);
      gallery.clocks.silence(null);
      stage.drawn = function () {
        deck.load(stage.clips, stage.row, fresh);
        fresh = false;
        press();
      };
    }
    if (matched) matched.set(gallery.level.matched ? "1" : "");
    document.body.appendChild(dialog);
    document.documentElement.classList.add("has-lightbox");
    dialog.showModal();
    stage.node.focus();
    if (sounds && options.column !== null) deck.start(options.column);
    if (!sounds) choose("all");
    if (options.column !== null && several) stage.column = options.column;
    go(at);
    return { close: function () { dialog.close(); } };
  };

  function hints(several, timed, sounds) {
    var keys = [["\u2190 \u2192", "row"]];
    if (timed) keys.push(["Space", "play"], [", .", sounds ? "half a second" : "frame"], ["L", "loop"], ["< >", "speed"]);
    if (several) keys.push(["1\u20139", sounds ? "listen" : "column"]);
    if (several && sounds) keys.push(["B", "A/B"]);
    if (several && !sounds) keys.push(["A", "all"], [timed ? "hold B" : "hold Space", "base"], ["S", "slider"]);
    if (!sounds) keys.push(["+ \u2212 0", "zoom"]);
    keys.push(["Esc", "close"]);
    return keys.map(function (pair) {
      return element("span", {}, [element("kbd", { text: pair[0] }), " " + pair[1]]);
    });
  }
})();
