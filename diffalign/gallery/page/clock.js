/* One clock for the media of a row. Videos play side by side, muted, in step with the longest; of sounds all play in step and
   one is heard, so that another can be heard at the same moment. Media elements exist only while a clock is open: a browser
   has room for a few dozen.

   gallery.clock(kind, records, hooks) of records and nulls; hooks: source(record) -> address, place(element, at) puts a new
   element into the page, changed() after whatever there is to draw, broke(at) where a file cannot be played. */
(function () {
  "use strict";
  var clocks = [];
  var FAR = 0.3; // seconds from which one that lags or leads is set to its place; a nearer one catches up by its speed
  var CATCH_UP = 0.25; // seconds within which it does, about
  var SOUND_STEP = 0.05; // seconds, what a frame is to videos

  function secondsOf(record) {
    return record.kind === "video" ? record.frames / record.fps : record.seconds;
  }

  function longest(records) {
    var best = -1;
    records.forEach(function (record, at) {
      if (record && (best < 0 || secondsOf(record) > secondsOf(records[best]))) best = at;
    });
    return best;
  }

  gallery.clock = function (kind, given, hooks) {
    var heard = kind === "audio";
    var records = given.map(function (record) { return record && record.kind === kind ? record : null; });
    var longestAt = longest(records);
    var lead = heard ? records.findIndex(Boolean) : longestAt;
    var duration = longestAt < 0 ? 0 : secondsOf(records[longestAt]);
    var step = heard ? SOUND_STEP : 1 / Math.max.apply(null, records.map(function (record) { return record ? record.fps : 1; }));
    var frames = Math.max(1, Math.round(duration / step));
    var parts = null; // one for each record while open
    var time = 0, rate = 1, loop = !heard, wanted = false, holds = {}, ticking = null;
    var clock = { kind: kind, duration: duration, step: step, frames: frames, records: records, automatic: false };

    function playing() {
      return wanted && !Object.keys(holds).some(function (name) { return holds[name]; });
    }

    function each(act) {
      (parts || []).forEach(function (part, at) { if (part && !part.broken) act(part, at); });
    }

    function isOver(part) {
      return part.seconds - time < (heard ? 0.01 : step / 2);
    }

    function placeOf(part) {
      return Math.max(0, Math.min(time, part.seconds - (heard ? 0 : step / 2)));
    }

    function leader() {
      if (!parts) return null;
      if (parts[lead] && !parts[lead].broken) return parts[lead];
      var next = heard ? -1 : longest(records.map(function (record, at) { return parts[at] && !parts[at].broken ? record : null; }));
      return next < 0 ? null : parts[next];
    }

    function make(record, at) {
      if (!record) return null;
      var element = gallery.element(kind, { preload: "auto", playsinline: true, "class": "media moving" + (record.tiny ? " tiny" : ""), "aria-hidden": "true", tabindex: -1 });
      var part = { element: element, seconds: secondsOf(record), broken: false, moved: 0 };
      element.muted = true;
      gallery.listen(element, {
        loadedmetadata: function () { if (time > 0) element.currentTime = placeOf(part); },
        canplay: begin,
        error: function () {
          if (!parts || !element.hasAttribute("src")) return;
          part.broken = true;
          if (hooks.broke) hooks.broke(at);
          begin();
        }
      });
      element.src = hooks.source(record);
      hooks.place(element, at);
      return part;
    }

    function open() {
      if (parts) return;
      parts = records.map(make);
      clock.level();
    }

    /* Start what is to play, once all of it can; each `canplay` asks again. */
    function begin() {
      if (!playing() || !records.some(Boolean)) return;
      open();
      if (!leader()) return stop();
      var ready = true;
      each(function (part) { if (!isOver(part) && part.element.readyState < 3) ready = false; });
      if (!ready) return;
      if (heard) silence(clock);
      each(function (part) { if (!isOver(part)) start(part); });
      if (ticking === null) ticking = window.requestAnimationFrame(tick);
    }

    function start(part) {
      part.element.playbackRate = rate;
      if (!part.element.paused) return;
      part.element.play().catch(function (error) { if (error.name === "NotAllowedError") clock.pause(); });
    }

    function tick() {
      ticking = null;
      var first = leader();
      if (!playing() || !first) return;
      if (first.element.ended || (isOver(first) && first.element.paused)) return over();
      if (!first.element.seeking) time = Math.min(duration, first.element.currentTime);
      each(function (part) { if (part !== first && !isOver(part)) keepUp(part); });
      hooks.changed();
      ticking = window.requestAnimationFrame(tick);
    }

    function keepUp(part) {
      var element = part.element, now = window.performance.now();
      if (element.seeking) return;
      if (element.paused) return start(part);
      var ahead = element.currentTime - time;
      if (Math.abs(ahead) > FAR && now - part.moved > 500) {
        part.moved = now;
        element.currentTime = placeOf(part);
        return;
      }
      var wish = rate * (1 - Math.max(-0.5, Math.min(0.5, ahead / CATCH_UP)));
      if (Math.abs(element.playbackRate - wish) > 0.02 * rate) element.playbackRate = wish;
    }

    function over() {
      if (!loop) return stop(duration);
      setAll(0);
      begin();
    }

    function stop(end) {
      wanted = false;
      each(function (part) { part.element.pause(); });
      if (end !== undefined) setAll(end);
      hooks.changed();
    }

    function setAll(seconds) {
      time = Math.max(0, Math.min(duration, seconds));
      each(function (part) { if (part.element.readyState > 0) part.element.currentTime = placeOf(part); });
    }

    function frame() {
      return Math.max(0, Math.min(frames - 1, Math.floor(time / step + 1e-3)));
    }

    /* All on the middle of one frame: a browser shows the same one for the same time only there. */
    function settle() {
      each(function (part) { part.element.pause(); });
      if (!heard) setAll((frame() + 0.5) * step);
    }

    clock.time = function () { return time; };
    clock.frame = frame;
    clock.wanted = function () { return wanted; };
    clock.playing = playing;
    clock.lead = function () { return lead; };
    clock.rate = function () { return rate; };
    clock.loops = function () { return loop; };

    clock.play = function () {
      if (!duration) return;
      wanted = true;
      if (duration - time < step) setAll(0);
      begin();
      hooks.changed();
    };

    clock.pause = function () {
      if (!wanted) return;
      wanted = false;
      settle();
      hooks.changed();
    };

    clock.toggle = function () {
      if (wanted) clock.pause();
      else clock.play();
    };

    clock.seek = function (seconds) {
      if (!heard && !holds.away) open();
      setAll(playing() || heard ? seconds : (Math.min(frames - 1, Math.floor(seconds / step + 1e-3)) + 0.5) * step);
      begin();
      hooks.changed();
    };

    /* By so many frames, stopped; by so many seconds of sound. */
    clock.move = function (by) {
      if (heard) return clock.seek(time + by);
      clock.pause();
      clock.seek((Math.max(0, Math.min(frames - 1, frame() + by)) + 0.5) * step);
    };

    clock.setRate = function (value) {
      rate = value;
      each(function (part) { part.element.playbackRate = rate; });
      hooks.changed();
    };

    clock.setLoop = function (value) {
      loop = value;
      hooks.changed();
    };

    clock.hear = function (at) {
      if (!heard || !records[at]) return;
      lead = at;
      clock.level();
      if (parts) parts[at].element.playbackRate = rate;
      hooks.changed();
    };

    /* Who is heard, and how loud. */
    clock.level = function () {
      each(function (part, at) {
        part.element.muted = !heard || at !== lead;
        if (heard) part.element.volume = gallery.level.of(records[at]);
      });
    };

    clock.redraw = function () { hooks.changed(); };

    /* Stopped for a while, for a reason with a name, without changing what is wanted. */
    clock.hold = function (name, on) {
      if (Boolean(holds[name]) === on) return;
      holds[name] = on;
      if (on) settle();
      else begin();
      hooks.changed();
    };

    clock.close = function () {
      var old = parts;
      parts = null;
      (old || []).forEach(function (part) {
        if (!part) return;
        part.element.pause();
        part.element.removeAttribute("src");
        part.element.load();
        if (part.element.parentNode) part.element.parentNode.removeChild(part.element);
      });
    };

    clock.dispose = function () {
      wanted = false;
      clock.close();
      clocks = clocks.filter(function (other) { return other !== clock; });
    };

    clocks.push(clock);
    return clock;
  };

  /* One sound in the whole page. */
  function silence(except) {
    clocks.forEach(function (clock) {
      if (clock === except || clock.kind !== "audio") return;
      clock.pause();
      clock.close();
    });
  }

  gallery.clocks = {
    each: function (act) { clocks.slice().forEach(act); },
    hold: function (name, on) {
      clocks.forEach(function (clock) { if (clock.kind === "video") clock.hold(name, on); });
    },
    silence: silence
  };

  document.addEventListener("visibilitychange", function () { gallery.clocks.hold("hidden", document.hidden); });
})();
