/* What a score has to do with the training: its badge, the order in which scores stand, and which are shown before anybody asks.
   A table has `scores`, names, and `roles`, one for each name or null. */
(function () {
  "use strict";
  var ORDER = ["trained", "same reward", "held out", "guard"];
  var TITLES = [
    "The models were trained on pairs made by this score",
    "Another dimension of a reward that was trained on",
    "Of a reward that was not trained on",
    "A measure of looks, neither good nor bad: a large change is a warning"
  ];
  var FEW = 3; // scores that can always be shown

  function roleOf(table, name) {
    return table.roles[table.scores.indexOf(name)];
  }

  function rank(role) {
    return role === null ? ORDER.length : ORDER.indexOf(role);
  }

  function ordered(table) {
    return table.scores.slice().sort(function (a, b) {
      return rank(roleOf(table, a)) - rank(roleOf(table, b)) || table.scores.indexOf(a) - table.scores.indexOf(b);
    });
  }

  function isHeadline(name) {
    return /\.(overall|score)$/.test(name);
  }

  /* All of a few; else what was trained on and the overall dimension of its reward; where nothing is known of training, no guards. */
  function main(table) {
    var names = ordered(table);
    if (names.length <= FEW) return names;
    var found = names.filter(function (name) {
      var role = roleOf(table, name);
      return role === "trained" || (role === "same reward" && /\.overall$/.test(name));
    });
    if (!found.length) found = names.filter(function (name) { return roleOf(table, name) !== "guard"; });
    if (!found.length) found = names;
    var kept = found.filter(isHeadline).concat(found.filter(function (name) { return !isHeadline(name); })).slice(0, FEW);
    return names.filter(function (name) { return kept.indexOf(name) >= 0; });
  }

  gallery.roles = {
    of: roleOf,
    ordered: ordered,
    main: main,
    title: function (role) { return role === null ? null : TITLES[rank(role)]; },
    badge: function (role) {
      return role === null ? null : gallery.element("span", { "class": role === "trained" ? "badge trained" : "badge", title: TITLES[rank(role)], text: role });
    }
  };
})();
