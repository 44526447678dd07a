/* A line of time to point at: click, drag or keys seek. What stands in it is given: a bar, or the pictures of a sound. */
(function () {
  "use strict";
  var element = gallery.element;

  function clamp(value, low, high) {
    return Math.max(low, Math.min(high, value));
  }

  /* options: label, name (class), body (nodes), duration and step in seconds, text(time) for screen readers, seek(time),
     grabbed() before a click seeks or null, toggle() of Space and Enter. {node, set(time, speak)} */
  gallery.slider = function (options) {
    var time = 0, dragging = false;
    var node = element("div", {
      "class": "slider " + options.name, role: "slider", tabindex: 0, "aria-label": options.label,
      "aria-valuemin": 0, "aria-valuemax": Number(options.duration.toFixed(3)), "aria-valuenow": 0
    }, options.body.concat(element("span", { "class": "playhead", "aria-hidden": "true" })));

    function to(event) {
      var box = node.getBoundingClientRect();
      options.seek(clamp((event.clientX - box.left) / box.width, 0, 1) * options.duration);
    }

    function key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      var far = Math.max(options.step, options.duration / 10);
      var by = { ArrowRight: options.step, ArrowUp: options.step, ArrowLeft: -options.step, ArrowDown: -options.step, PageUp: far, PageDown: -far };
      if (by.hasOwnProperty(event.key)) options.seek(clamp(time + by[event.key], 0, options.duration));
      else if (event.key === "Home") options.seek(0);
      else if (event.key === "End") options.seek(options.duration);
      else if (event.key === " " || event.key === "Enter") options.toggle();
      else return;
      event.preventDefault();
      event.stopPropagation();
    }

    gallery.listen(node, {
      keydown: key,
      pointerdown: function (event) {
        if (event.button > 0) return;
        dragging = true;
        node.setPointerCapture(event.pointerId);
        if (options.grabbed) options.grabbed();
        to(event);
      },
      pointermove: function (event) { if (dragging) to(event); },
      pointerup: function () { dragging = false; },
      pointercancel: function () { dragging = false; }
    });

    return {
      node: node,
      /* What a screen reader says changes only with `speak`: not at every frame of what is playing. */
      set: function (now, speak) {
        time = clamp(now, 0, options.duration);
        node.style.setProperty("--at", (options.duration ? 100 * time / options.duration : 0) + "%");
        if (!speak) return;
        node.setAttribute("aria-valuenow", Number(time.toFixed(3)));
        node.setAttribute("aria-valuetext", options.text(time));
      }
    };
  };

  /* What was judged better in each span of time: a colour, a sign and words. */
  gallery.band = function (segments) {
    if (!segments || !segments.length) return null;
    var kinds = {
      "1": { name: "up", sign: "\u25b2", text: "chosen better" },
      "-1": { name: "down", sign: "\u25bc", text: "rejected better" },
      "0": { name: "same", sign: "=", text: "neither better" }
    };
    var spans = segments.map(function (label) { return kinds[label] || kinds[0]; });
    var words = spans.map(function (span, at) { return (at + 1) + " " + span.text; }).join(", ");
    return element("div", { "class": "band", role: "img", "aria-label": "Judged by segment: " + words }, spans.map(function (span, at) {
      return element("span", { "class": span.name, title: "Segment " + (at + 1) + " of " + spans.length + ": " + span.text, text: span.sign });
    }));
  };
})();
