/* What plays in the lightbox: the clock of the row that is shown, kept or begun anew when the stage is drawn again. */
(function () {
  "use strict";

  /* {node, load(clips, row, fresh), hear(column), heard(), key(event), close()}; changed() when another column is heard.
     A clip is {node, record, column}: a picture on the stage, over which its video plays, or under which its sound is. */
  gallery.deck = function (table, changed) {
    var kind = table.frame.kind;
    var sounds = Boolean(gallery.kind(kind).heard);
    var bar = gallery.transport(sounds ? "Sounds" : "Videos");
    var clock = null, tracks = null, clips = [], lead = table.base;
    var memory = { going: !sounds && gallery.autoplay.on, time: 0, rate: 1, loop: !sounds };

    function remember(fresh) {
      if (!clock) return;
      memory = { going: clock.wanted(), time: fresh ? 0 : clock.time(), rate: clock.rate(), loop: clock.loops() };
      clock.dispose();
    }

    function draw() {
      bar.draw();
      if (tracks) tracks.draw();
      var now = tracks && clock.lead() >= 0 ? clips[clock.lead()].column : lead;
      if (now === lead) return;
      lead = now;
      changed();
    }

    function listen(row) {
      tracks = gallery.tracks(clock, clips.map(function (clip) { return clip.record; }), clips.map(function (clip) { return clip.node.parentNode; }),
        clips.map(function (clip) { return table.columns[clip.column].name; }), row[0], "large");
    }

    function hear(column) {
      clips.forEach(function (clip, at) { if (clip.column === column) clock.hear(at); });
    }

    return {
      node: bar.node,

      load: function (next, row, fresh) {
        remember(fresh);
        clips = next;
        tracks = null;
        clock = gallery.clock(kind, clips.map(function (clip) { return clip.record; }), {
          source: function (record) { return record.detail || record.src; },
          place: function (moving, at) { (sounds ? bar.node : clips[at].node).appendChild(moving); },
          changed: draw,
          broke: function (at) { gallery.replace(sounds ? bar.node : clips[at].node.parentNode, [gallery.missing("does not play here")]); }
        });
        clock.setRate(memory.rate);
        clock.setLoop(memory.loop);
        if (sounds) {
          listen(row);
          hear(lead);
        }
        bar.use(clock, row[5] && row[5].segments);
        if (memory.time) clock.seek(memory.time);
        if (memory.going) clock.play();
        draw();
      },

      /* Which sound is heard first. */
      start: function (column) { lead = column; },
      /* Another sound, at the same moment. */
      hear: hear,
      heard: function () { return lead; },
      key: bar.key,
      close: function () { if (clock) clock.dispose(); }
    };
  };
})();
