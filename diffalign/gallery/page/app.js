/* Starts the page: header, tabs, and which of them the address asks for. A tab's data loads when it is first opened. */
(function () {
  "use strict";
  var element = gallery.element;
  var header = gallery.loaded("gallery");
  var main = document.getElementById("main");
  var views = {};
  var tabs = [
    { name: "compare", text: "Compare", part: header && header.compare, build: gallery.compare },
    { name: "pairs", text: "Pairs", part: header && header.pairs, build: gallery.pairs },
    { name: "training", text: "Training", part: header && header.curves, file: "curves", build: function (section, part, curves) { return gallery.training(section, curves); } }
  ].filter(function (tab) { return tab.part; });

  function notice(text) {
    main.appendChild(element("p", { "class": "notice", text: text }));
  }

  function drawHeader() {
    document.title = header.title;
    document.getElementById("title").textContent = header.title;
    tabs.forEach(function (tab) {
      tab.link = element("a", { href: "#" + tab.name }, [tab.text + " ", element("span", { "class": "number", text: tab.part.count })]);
      gallery.listen(tab.link, { click: function () { tab.link.href = views[tab.name] ? views[tab.name].link() : "#" + tab.name; } });
    });
    document.getElementById("tabs").hidden = tabs.length < 2;
    gallery.replace(document.getElementById("tabs"), tabs.map(function (tab) { return tab.link; }));
    var settings = header.compare ? header.compare.settings : [];
    gallery.replace(document.getElementById("settings"), settings.map(function (pair) {
      return element("div", {}, [element("dt", { text: pair[0] }), element("dd", { text: pair[1] })]);
    }));
  }

  /* A section is called page-NAME: were it NAME, the browser would scroll to it by itself. */
  function route() {
    var address = gallery.address.read();
    var current = tabs.filter(function (tab) { return tab.name === address.tab; })[0] || tabs[0];
    tabs.forEach(function (tab) {
      var on = tab === current;
      document.getElementById("page-" + tab.name).hidden = !on;
      if (on) tab.link.setAttribute("aria-current", "page");
      else tab.link.removeAttribute("aria-current");
      if (!on && views[tab.name]) views[tab.name].leave();
    });
    open(current, address.values);
  }

  function open(tab, values) {
    if (views[tab.name]) return views[tab.name].open(values);
    var section = document.getElementById("page-" + tab.name);
    var file = tab.file || tab.name;
    gallery.load(file, function (data) {
      if (!data) {
        gallery.replace(section, [element("p", { "class": "notice", text: "data/" + file + ".js did not load. Keep the gallery's folder together and reload the page." })]);
        return;
      }
      views[tab.name] = views[tab.name] || tab.build(section, tab.part, data);
      if (!section.hidden) views[tab.name].open(values);
    });
  }

  /* The address is the view's, so the link to the content moves the focus and leaves the address alone. */
  document.querySelector(".skip").addEventListener("click", function (event) {
    event.preventDefault();
    main.focus();
  });
  if (!header) return notice("data/gallery.js did not load. Keep the gallery's folder together and reload the page.");
  drawHeader();
  if (!tabs.length) return notice("This gallery is empty: no comparison, no pairs and no training curves were written.");
  window.addEventListener("hashchange", route);
  route();
})();
