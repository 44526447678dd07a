/* What is looked at lives in the address (#compare?q=red&order=gain), so that a view can be shared and reloaded.
   A view declares its fields: {start: value, allowed: [...] or absent, list: true, whole: true}. What is not allowed is
   ignored, so a stale or hostile address opens the plain view. */
(function () {
  "use strict";

  function decode(text) {
    try {
      return decodeURIComponent(text.replace(/\+/g, " "));
    } catch (error) {
      return "";
    }
  }

  gallery.address = {
    /* {tab: "compare", values: {name: [text, ...]}} */
    read: function () {
      var parts = window.location.hash.replace(/^#/, "").split("?");
      var values = {};
      (parts[1] || "").split("&").forEach(function (pair) {
        var at = pair.indexOf("=");
        if (at < 1) return;
        var name = "$" + decode(pair.slice(0, at));
        values[name] = (values[name] || []).concat(decode(pair.slice(at + 1)));
      });
      return { tab: parts[0], values: values };
    },

    parse: function (fields, values) {
      var state = {};
      Object.keys(fields).forEach(function (name) {
        var field = fields[name];
        var given = (values["$" + name] || []).filter(function (text) {
          if (field.whole) return /^\d{1,9}$/.test(text);
          return !field.allowed || field.allowed.indexOf(text) >= 0;
        });
        if (!given.length) state[name] = field.start;
        else if (field.list) state[name] = given;
        else state[name] = field.whole ? Number(given[0]) : given[0];
      });
      return state;
    },

    /* Only what differs from the start of its field is written. */
    link: function (tab, fields, state) {
      var pairs = [];
      Object.keys(fields).forEach(function (name) {
        var value = state[name];
        if (String(value) === String(fields[name].start)) return;
        (fields[name].list ? value : [value]).forEach(function (item) {
          pairs.push(encodeURIComponent(name) + "=" + encodeURIComponent(item));
        });
      });
      return "#" + tab + (pairs.length ? "?" + pairs.join("&") : "");
    },

    write: function (link) {
      if (window.location.hash !== link) window.history.replaceState(null, "", link);
    }
  };
})();
