/* The controls of one clock: play, a frame back and forward, a line of time with the segments under it, loop, speed. */
(function () {
  "use strict";
  var element = gallery.element;
  var numbers = gallery.numbers;
  var RATES = [0.1, 0.25, 0.5, 1, 2];
  var SHAPES = {
    play: "M5 3.2v9.6l8-4.8z", pause: "M4 3h3v10H4zM9 3h3v10H9z", back: "M3 3h2v10H3zM13 3v10L6 8z", forward: "M11 3h2v10h-2zM3 3v10l7-5z",
    enlarge: "M9 2h5v5h-2V5.4L9.4 8 8 6.6 10.6 4H9zM7 14H2V9h2v1.6L6.6 8 8 9.4 5.4 12H7z",
    loop: "M4 4h6.5V2L14 5l-3.5 3V6H5v3H3V5a1 1 0 0 1 1-1zM12 12H5.5v2L2 11l3.5-3v2H11V7h2v4a1 1 0 0 1-1 1z"
  };

  gallery.icon = function (name) {
    return gallery.svg("svg", { "class": "sign", width: 16, height: 16, viewBox: "0 0 16 16", "aria-hidden": "true" }, [gallery.svg("path", { d: SHAPES[name] })]);
  };

  /* A button with a sign; show(name, label) changes both. */
  gallery.signButton = function (name, label, press) {
    var shown = null;
    var button = element("button", { type: "button", "class": "icon", on: { click: press } });
    button.show = function (next, text) {
      if (shown !== next) gallery.replace(button, [gallery.icon(next)]);
      if (shown !== next || button.title !== text) { button.setAttribute("aria-label", text); button.title = text; }
      shown = next;
    };
    button.show(name, label);
    return button;
  };

  gallery.shownTime = function (time) {
    return numbers.show(time, 2) + " s";
  };

  /* {node, use(clock or null, segments), draw(), key(event) -> whether it was a key of these}; `label` says what plays. */
  gallery.transport = function (label) {
    var clock = null, slider = null;
    var play = gallery.signButton("play", "Play", function () { clock.toggle(); });
    var back = gallery.signButton("back", "One frame back (,)", function () { clock.move(-1); });
    var forward = gallery.signButton("forward", "One frame forward (.)", function () { clock.move(1); });
    var loop = gallery.signButton("loop", "Loop (L)", function () { clock.setLoop(!clock.loops()); });
    var speed = element("select", { "class": "speed", "aria-label": "Speed", title: "Speed (< >)" }, RATES.map(function (rate) {
      return element("option", { value: rate, text: rate + "\u00d7" });
    }));
    var text = element("span", { "class": "time" });
    var line = element("div", { "class": "timeline" });
    var node = element("div", { "class": "transport", role: "group", "aria-label": label }, [
      line, element("div", { "class": "transport-buttons" }, [play, back, forward, loop, speed, text])
    ]);
    var controls = [play, back, forward, loop, speed];

    function words(time) {
      if (clock.kind === "audio") return gallery.shownTime(time) + " of " + gallery.shownTime(clock.duration);
      return "frame " + (clock.frame() + 1) + " of " + clock.frames + ", " + gallery.shownTime(clock.frame() * clock.step);
    }

    function draw() {
      if (!clock || !slider) return;
      var on = clock.wanted(), time = clock.time();
      slider.set(time, !clock.playing());
      play.show(on ? "pause" : "play", on ? "Pause" : "Play");
      loop.setAttribute("aria-pressed", clock.loops() ? "true" : "false");
      speed.value = String(clock.rate());
      text.textContent = clock.kind === "audio" ? numbers.show(time, 2) + " / " + gallery.shownTime(clock.duration)
        : (clock.frame() + 1) + " / " + clock.frames + "\u2002" + gallery.shownTime(clock.frame() * clock.step);
    }

    function use(next, segments) {
      clock = next;
      var usable = clock !== null && clock.duration > 0;
      controls.forEach(function (control) { control.disabled = !usable; });
      node.hidden = clock !== null && !usable;
      if (!usable) return gallery.replace(line, [element("div", { "class": "slider bar" }), gallery.band(segments)]);
      [back, forward].forEach(function (button) { button.hidden = clock.kind === "audio"; });
      text.title = clock.kind === "audio" ? "" : "Frame and time";
      slider = gallery.slider({
        label: "Position", name: "bar", body: [element("span", { "class": "fill" })], duration: clock.duration, step: clock.step, text: words,
        seek: function (time) { clock.seek(time); }, toggle: function () { clock.toggle(); }
      });
      gallery.replace(line, [slider.node, gallery.band(segments)]);
      draw();
    }

    function faster(by) {
      var at = RATES.indexOf(clock.rate()) + by;
      if (at >= 0 && at < RATES.length) clock.setRate(RATES[at]);
    }

    function key(event) {
      if (!clock || !clock.duration || event.ctrlKey || event.metaKey || event.altKey) return false;
      var typed = event.key.length === 1 ? event.key.toLowerCase() : event.key;
      var jump = clock.kind === "audio" ? 0.5 : 1; // seconds of a sound, frames of a video
      if (typed === " " || typed === "k") clock.toggle();
      else if (typed === ",") clock.move(-jump);
      else if (typed === ".") clock.move(jump);
      else if (typed === "l") clock.setLoop(!clock.loops());
      else if (typed === "<") faster(-1);
      else if (typed === ">") faster(1);
      else return false;
      return true;
    }

    gallery.listen(speed, { change: function () { clock.setRate(Number(speed.value)); } });
    gallery.listen(node, {
      keydown: function (event) {
        if (event.target === speed || (event.key === " " && event.target !== node)) return; // a button's and a list's own
        if (!key(event)) return;
        event.preventDefault();
        event.stopPropagation();
      }
    });
    use(null);
    return { node: node, use: use, draw: draw, key: key };
  };
})();
