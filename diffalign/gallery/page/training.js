/* The Training page: one chart per group, pointing at one step in all of them. */
(function () {
  "use strict";
  var FIELDS = { smooth: { start: "", allowed: ["1"] }, log: { start: "", allowed: ["1"] } };

  function grouped(curves) {
    var groups = [];
    curves.forEach(function (curve) {
      var found = groups.filter(function (group) { return group.name === curve.group; })[0];
      if (!found) groups.push(found = { name: curve.group, curves: [] });
      found.curves.push(curve);
    });
    return groups;
  }

  gallery.training = function (section, curves) {
    var state = null;
    var charts = grouped(curves).map(function (group) { return gallery.chart(group.name, group.curves, moved); });
    var smooth = gallery.controls.toggle("Smooth", function (value) { change("smooth", value); }, "A moving average over about 5 % of the points");
    var log = gallery.controls.toggle("Log scale", function (value) { change("log", value); }, "Logarithmic vertical axis");
    gallery.replace(section, [
      gallery.element("div", { "class": "toolbar chart-controls" }, [
        gallery.element("div", { "class": "chips" }, [smooth.node, log.node]),
        gallery.element("p", { "class": "hint", text: "Point at a chart to read every chart at that step." })
      ]),
      gallery.element("div", { "class": "charts" }, charts.map(function (chart) { return chart.node; }))
    ]);

    function moved(step) {
      charts.forEach(function (chart) { chart.point(step); });
    }

    function change(name, value) {
      state[name] = value;
      gallery.address.write(gallery.address.link("training", FIELDS, state));
      draw();
    }

    function draw() {
      smooth.set(state.smooth);
      log.set(state.log);
      charts.forEach(function (chart) { chart.draw({ smooth: state.smooth === "1", log: state.log === "1" }); });
    }

    return {
      open: function (values) { state = gallery.address.parse(FIELDS, values); draw(); },
      leave: function () {},
      link: function () { return state ? gallery.address.link("training", FIELDS, state) : "#training"; }
    };
  };
})();
