/* A searchable, sortable, paged list of rows with a lightbox: what the Compare and Pairs pages have in common. */
(function () {
  "use strict";
  var element = gallery.element;
  var WIDE = "(min-width: 760px)";

  /* Decimals for each score, from how much it varies over all samples. */
  gallery.digits = function (scores, index) {
    return scores.map(function (name, at) {
      var values = [];
      index.forEach(function (row) {
        row[2].forEach(function (sample) { if (sample) values.push(sample[at]); });
      });
      return gallery.numbers.digits(gallery.numbers.deviation(values));
    });
  };

  function pager(turn) {
    var text = element("span", { "class": "place" });
    var before = element("button", { type: "button", text: "\u2190 Previous", on: { click: function () { turn(-1); } } });
    var after = element("button", { type: "button", text: "Next \u2192", on: { click: function () { turn(1); } } });
    return {
      node: element("nav", { "class": "pager", "aria-label": "Pages of rows" }, [before, text, after]),
      set: function (page, pages) {
        this.node.hidden = pages < 2;
        before.disabled = page <= 1;
        after.disabled = page >= pages;
        text.textContent = "Page " + page + " of " + pages;
      }
    };
  }

  /* table: name, label, columns, base, baseName, scores, roles, digits, index, frame, notes(row) -> nodes, more (place in a line of what few have).
     options: section, tab, table, top (nodes above), fields (more of the address), controls(change) -> {nodes, set(state)},
     filters (names of fields that "Clear filters" clears), choose(state, matching) -> row numbers in order, unit [one, many].
     A field that is a `look` changes what is shown of the rows, not which rows; one that is `live` draws none anew. */
  gallery.listing = function (options) {
    var table = options.table;
    var state = null;
    var box = null;
    var order = [];
    var prompts = table.index.map(function (row) { return row[0].toLowerCase(); });
    var tags = gallery.tagValues(table.index);
    var scores = gallery.roles.ordered(table);
    var main = gallery.roles.main(table);
    var fields = {
      q: { start: "" },
      show: { start: main, allowed: table.scores.concat("all"), list: true, look: true },
      page: { start: 1, whole: true, look: true },
      per: { start: "24", allowed: ["12", "24", "48", "96"] },
      size: { start: "m", allowed: ["s", "m", "l"], look: true },
      smooth: { start: "", allowed: ["1"], look: true },
      row: { start: null, whole: true }
    };
    if (gallery.kind(table.frame.kind).heard) fields.loudness = { start: "1", allowed: ["1", ""], look: true, live: true };
    else if (gallery.kind(table.frame.kind).timed) fields.autoplay = { start: gallery.autoplay.on ? "1" : "", allowed: ["1", ""], look: true, live: true };
    tags.forEach(function (tag) { fields["tag." + tag.name] = { start: "", allowed: tag.values }; });
    Object.keys(options.fields).forEach(function (name) { fields[name] = options.fields[name]; });

    function setter(name) {
      return function (value) { change(name, value); };
    }

    function bind(name, control) {
      return { node: control.node, set: function (now) { control.set(now[name]); } };
    }

    var controls = gallery.controls;
    var filters = [bind("q", controls.search("Prompt contains", setter("q")))].concat(tags.map(function (tag) {
      var choices = [["", "any"]].concat(tag.values.map(function (value) { return [value, value]; }));
      return bind("tag." + tag.name, controls.select(tag.name, choices, setter("tag." + tag.name)));
    }));
    var own = options.controls(change);
    var looks = [];
    if (scores.length > 1) {
      var shownScores = controls.checks("Scores shown", scores.map(function (name) {
        return [name, name, gallery.roles.title(gallery.roles.of(table, name))];
      }), showScores);
      looks.push({ node: shownScores.node, set: function () { shownScores.set(shown()); } });
    }
    looks.push(bind("size", controls.segments("Size", [["s", "S"], ["m", "M"], ["l", "L"]], setter("size"))));
    if (table.frame.tiny) looks.push(bind("smooth", controls.toggle("Smooth pixels", setter("smooth"), "Small pictures are enlarged: smoothly, or pixel by pixel")));
    var plays = [];
    if (fields.loudness && gallery.level.works()) plays.push(bind("loudness", gallery.level.control(setter("loudness"))));
    if (fields.autoplay) plays.push(bind("autoplay", controls.toggle("Autoplay", setter("autoplay"), "Videos play while they are in sight")));
    var per = bind("per", controls.select("Rows per page", fields.per.allowed.map(function (n) { return [n, n]; }), setter("per")));
    var count = element("p", { "class": "count", role: "status" });
    var clear = element("button", { type: "button", "class": "plain", text: "Clear filters", on: { click: clearFilters } });
    var rows = gallery.rows(table, open);
    var above = pager(turn);
    var below = pager(turn);
    var allScores = controls.fold("All " + scores.length + " scores", "Main scores", function (all) { change("show", all ? ["all"] : main); });
    allScores.node.hidden = main.length === scores.length;
    var view = controls.fold("View", "View", showView);
    var anchor = element("div", { "class": "list-top" }, [count, clear].concat(nodes(plays), allScores.node, view.node, above.node));

    function nodes(list) {
      return list.map(function (item) { return item.node; });
    }

    var panel = element("details", { "class": "filters", open: window.matchMedia(WIDE).matches }, [
      element("summary", { text: "Filter and sort" }),
      element("div", { "class": "toolbar" }, nodes(filters).concat(own.nodes))
    ]);
    var viewPanel = element("div", { "class": "toolbar view-panel" }, nodes(looks));
    window.matchMedia(WIDE).addEventListener("change", function (event) { if (event.matches) panel.open = true; });
    per.node.hidden = table.index.length <= Number(fields.per.allowed[0]);
    options.section.style.setProperty("--columns", table.columns.length);
    gallery.replace(options.section, options.top.concat([
      panel, anchor, viewPanel, rows.node, element("div", { "class": "list-end" }, [below.node, per.node])
    ]));

    function showView(open) {
      view.set(open);
      viewPanel.hidden = !open;
    }

    function showScores(names) {
      change("show", names.length === scores.length ? ["all"] : names.length ? names : main);
    }

    function shown() {
      return state.show.indexOf("all") >= 0 ? scores : scores.filter(function (name) { return state.show.indexOf(name) >= 0; });
    }

    /* What is filtered or sorted anew is read from its first page. */
    function change(name, value) {
      state[name] = value;
      if (!fields[name].look) state.page = 1;
      if (fields[name].live) play();
      else render();
      save();
    }

    /* What is changed of what plays, without drawing it anew. */
    function play() {
      plays.forEach(function (control) { control.set(state); });
      if (fields.loudness) gallery.level.set(state.loudness === "1");
      if (fields.autoplay) gallery.autoplay.set(state.autoplay === "1");
    }

    function save() {
      gallery.address.write(gallery.address.link(options.tab, fields, state));
    }

    function turn(by) {
      change("page", state.page + by);
      anchor.scrollIntoView({ block: "start" });
    }

    function clearFilters() {
      filterNames().forEach(function (name) { state[name] = fields[name].start; });
      change("q", "");
    }

    function filterNames() {
      return ["q"].concat(tags.map(function (tag) { return "tag." + tag.name; }), options.filters);
    }

    function matching() {
      var words = state.q.toLowerCase().split(/\s+/);
      var numbers = [];
      table.index.forEach(function (row, number) {
        var fits = words.every(function (word) { return prompts[number].indexOf(word) >= 0; }) && tags.every(function (tag) {
          return state["tag." + tag.name] === "" || row[1][tag.name] === state["tag." + tag.name];
        });
        if (fits) numbers.push(number);
      });
      return numbers;
    }

    function render() {
      order = options.choose(state, matching());
      var size = Number(state.per);
      var pages = Math.max(1, Math.ceil(order.length / size));
      state.page = Math.max(1, Math.min(pages, state.page));
      filters.concat(looks, own, per).forEach(function (control) { control.set(state); });
      play();
      options.section.setAttribute("data-size", state.size);
      options.section.setAttribute("data-smooth", state.smooth);
      allScores.set(shown().length === scores.length);
      rows.show(order.slice((state.page - 1) * size, state.page * size), shown());
      [above, below].forEach(function (control) { control.set(state.page, pages); });
      var all = order.length === table.index.length;
      count.textContent = (all ? "" : order.length + " of ") + table.index.length + " " + options.unit[table.index.length === 1 ? 0 : 1];
      clear.hidden = filterNames().every(function (name) { return state[name] === fields[name].start; });
    }

    function open(number, column) {
      var at = order.indexOf(number);
      var list = at >= 0 ? order : [number];
      var mine = box = gallery.lightbox({
        table: table, order: list, at: Math.max(0, at), column: column, shown: shown(), smooth: state.smooth === "1",
        level: fields.loudness ? setter("loudness") : null,
        moved: function (now) { state.row = now; save(); },
        closed: function (place) { if (box === mine) closed(list[place], column); }
      });
    }

    /* Closed because the address changed, so the address stays as it is. */
    function dismiss() {
      var old = box;
      box = null;
      if (old) old.close();
    }

    /* Back in the list, at the row that was last looked at, wherever the keys led. */
    function closed(number, column) {
      box = null;
      state.row = null;
      var at = order.indexOf(number);
      var page = at < 0 ? state.page : Math.floor(at / Number(state.per)) + 1;
      if (page !== state.page) {
        state.page = page;
        render();
      }
      save();
      var item = rows.node.querySelector('.item[data-row="' + number + '"][data-column="' + (column || 0) + '"]');
      if (!item) return;
      item.focus({ preventScroll: true });
      item.scrollIntoView({ block: "nearest" });
    }

    showView(false);
    return {
      open: function (values) {
        dismiss();
        state = gallery.address.parse(fields, values);
        var row = state.row;
        state.row = null;
        render();
        if (row !== null && row < table.index.length) open(row, null);
      },
      leave: function () {
        dismiss();
        gallery.clocks.silence(null);
      },
      link: function () { return state ? gallery.address.link(options.tab, fields, state) : "#" + options.tab; },
      change: change
    };
  };
})();
