/* What plays in one row of a table, by the kind of its media: {note, cell(at, button), load(samples, buttons, node), close()}.
   note: more for the cell of the prompt, or null; cell: what stands where the button that opens the lightbox would. */
(function () {
  "use strict";
  var element = gallery.element;
  var STEPS = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1];

  /* Whether videos start by themselves, until somebody says otherwise. */
  gallery.autoplay = {
    on: !window.matchMedia("(prefers-reduced-motion: reduce)").matches,
    set: function (on) {
      if (gallery.autoplay.on === on) return;
      gallery.autoplay.on = on;
      gallery.clocks.each(function (clock) {
        if (!clock.automatic) return;
        if (on) clock.play();
        else clock.pause();
      });
    }
  };

  /* Calls seen(true) where most of a node is in the window, seen(false) where little is, gone() where nothing is. */
  function watch(node, seen, gone) {
    var observer = new window.IntersectionObserver(function (entries) {
      var entry = entries[entries.length - 1];
      var whole = Math.min(entry.boundingClientRect.height, window.innerHeight) || 1;
      var share = entry.intersectionRect.height / whole;
      if (share >= 0.5) seen(true);
      else if (share < 0.3) seen(false);
      if (!entry.isIntersecting) gone();
    }, { threshold: STEPS });
    observer.observe(node);
    return observer;
  }

  function segmentsOf(row) {
    return row[5] && row[5].segments;
  }

  function video(table, row) {
    var bar = gallery.transport("Videos: " + row[0]);
    var clock = null, observer = null;
    bar.use(null, segmentsOf(row)); // as high as it will be
    return {
      note: bar.node,
      cell: function (at, button) { return button; },
      load: function (samples, buttons, node) {
        clock = gallery.clock("video", samples || [], {
          source: function (record) { return record.src; },
          place: function (moving, at) { buttons[at].firstChild.appendChild(moving); },
          changed: bar.draw,
          broke: function (at) { gallery.replace(buttons[at], [gallery.missing("does not play here")]); }
        });
        clock.automatic = true;
        clock.hold("away", true);
        bar.use(clock, segmentsOf(row));
        if (gallery.autoplay.on) clock.play();
        observer = watch(node, function (near) { clock.hold("away", !near); }, clock.close);
      },
      close: function () {
        if (observer) observer.disconnect();
        if (clock) clock.dispose();
      }
    };
  }

  function audio(table, row) {
    var clock = null, tracks = null;
    var cells = table.columns.map(function (column, at) {
      var name = column.name + ": " + row[0];
      var cell = {
        name: name,
        holder: element("div", { "class": "track-room" }),
        play: gallery.signButton("play", "Play " + name, function () { press(at); }),
        level: element("span", { "class": "levels" }),
        bands: element("div", { "class": "bands" }, [gallery.band(segmentsOf(row))])
      };
      cell.play.disabled = true;
      return cell;
    });

    /* Pressed where another sound of the row plays, this one goes on from the same moment. */
    function press(at) {
      if (clock.wanted() && clock.lead() === at) return clock.pause();
      clock.hear(at);
      clock.play();
    }

    function draw() {
      if (!tracks) return;
      tracks.draw();
      cells.forEach(function (cell, at) {
        var on = clock.wanted() && clock.lead() === at;
        cell.play.show(on ? "pause" : "play", (on ? "Pause " : "Play ") + cell.name);
      });
    }

    function fill(samples, buttons) {
      cells.forEach(function (cell, at) {
        var base = at === table.base ? null : samples[table.base];
        cell.play.disabled = !clock.records[at];
        gallery.replace(cell.level, gallery.level.note(samples[at], base));
        gallery.replace(buttons[at], [gallery.icon("enlarge")]);
      });
    }

    return {
      note: null,
      cell: function (at, button) {
        button.classList.add("enlarge");
        return element("div", { "class": "sound" }, [
          cells[at].holder, cells[at].bands, element("div", { "class": "sound-bar" }, [cells[at].play, cells[at].level, button])
        ]);
      },
      load: function (samples, buttons) {
        var given = samples || table.columns.map(function () { return null; });
        clock = gallery.clock("audio", given, {
          source: function (record) { return record.src; },
          place: function (sounding, at) { cells[at].play.parentNode.appendChild(sounding); },
          changed: draw,
          broke: function (at) { gallery.replace(cells[at].level, [gallery.missing("does not play here")]); }
        });
        tracks = gallery.tracks(clock, given, cells.map(function (cell) { return cell.holder; }), cells.map(function (cell) { return cell.name; }), row[0], "small");
        if (!samples) cells.forEach(function (cell) { gallery.replace(cell.holder, [gallery.missing("did not load")]); });
        fill(given, buttons);
        draw();
      },
      close: function () { if (clock) clock.dispose(); }
    };
  }

  var players = { video: video, audio: audio };

  gallery.player = function (table, row) {
    return players.hasOwnProperty(table.frame.kind) ? players[table.frame.kind](table, row) : null;
  };
})();
