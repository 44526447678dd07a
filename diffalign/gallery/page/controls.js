/* Labelled form controls. Each is {node, set}: set(value) shows a value without calling back. */
(function () {
  "use strict";
  var element = gallery.element;
  var count = 0;

  function labelled(label, control, name) {
    control.id = "control-" + ++count;
    return element("div", { "class": "field " + (name || "") }, [element("label", { "class": "label", "for": control.id, text: label }), control]);
  }

  function search(label, changed) {
    var timer = null;
    var input = element("input", { type: "search", autocomplete: "off", spellcheck: "false", placeholder: "any words" });
    gallery.listen(input, {
      input: function () {
        window.clearTimeout(timer);
        timer = window.setTimeout(function () { changed(input.value); }, 120);
      }
    });
    return {
      node: labelled(label, input, "search"),
      set: function (value) { if (input.value !== value) input.value = value; }
    };
  }

  /* choices: [[value, text], ...] */
  function select(label, choices, changed) {
    var control = element("select", {}, choices.map(function (choice) {
      return element("option", { value: choice[0], text: choice[1] });
    }));
    gallery.listen(control, { change: function () { changed(control.value); } });
    return { node: labelled(label, control), set: function (value) { control.value = value; } };
  }

  function inputs(type, choices, changed) {
    var name = "choice-" + ++count;
    return choices.map(function (choice) {
      var input = element("input", { type: type, name: name, value: choice[0] });
      var text = element("span", { text: choice[1] });
      gallery.listen(input, { change: function () { changed(choice[0], input.checked); } });
      return { value: choice[0], input: input, text: text, node: element("label", { "class": "chip", title: choice[2] }, [input, text]) };
    });
  }

  function fieldset(label, items, name) {
    return element("fieldset", { "class": name }, [element("legend", { "class": "label", text: label })].concat(
      element("div", { "class": "chips" }, items.map(function (item) { return item.node; }))));
  }

  /* One of a few: radio buttons that look like one bar. caption(value, text) rewrites a label. */
  function segments(label, choices, changed) {
    var items = inputs("radio", choices, changed);
    return {
      node: fieldset(label, items, "segments"),
      set: function (value) { items.forEach(function (item) { item.input.checked = item.value === value; }); },
      caption: function (value, text) {
        items.forEach(function (item) { if (item.value === value) item.text.textContent = text; });
      }
    };
  }

  /* Any of a few; changed(values) in the order of the choices. */
  function checks(label, choices, changed) {
    var items = inputs("checkbox", choices, function () {
      changed(items.filter(function (item) { return item.input.checked; }).map(function (item) { return item.value; }));
    });
    return {
      node: fieldset(label, items, "checks"),
      set: function (values) {
        items.forEach(function (item) { item.input.checked = values.indexOf(item.value) >= 0; });
      }
    };
  }

  function toggle(label, changed, title) {
    var item = inputs("checkbox", [["1", label, title]], function (value, checked) { changed(checked ? "1" : ""); })[0];
    return { node: item.node, set: function (value) { item.input.checked = value === "1"; } };
  }

  /* A button that shows more and less; changed(open). */
  function fold(more, less, changed) {
    var open = false;
    var button = element("button", { type: "button", "class": "fold", on: { click: function () { changed(!open); } } });
    return {
      node: button,
      set: function (value) {
        open = value;
        button.textContent = open ? less : more;
        button.setAttribute("aria-expanded", open ? "true" : "false");
      }
    };
  }

  gallery.controls = { search: search, select: select, segments: segments, checks: checks, toggle: toggle, fold: fold };
})();
