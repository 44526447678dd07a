/* The sounds of a row as lines of time over their pictures. A click seeks in all of them and listens to the one that was clicked. */
(function () {
  "use strict";

  function track(record, label, size, alt, at, clock) {
    var pictures = gallery.draw(record, alt, size);
    return {
      pictures: pictures,
      slider: gallery.slider({
        label: "Position in " + label, name: "track", body: [pictures], duration: record.seconds, step: clock.step,
        text: function (time) { return gallery.shownTime(time) + " of " + gallery.shownTime(record.seconds); },
        seek: function (time) { clock.seek(time); },
        grabbed: function () { clock.hear(at); },
        toggle: function () {
          if (clock.wanted() && clock.lead() === at) return clock.pause();
          clock.hear(at);
          clock.play();
        }
      })
    };
  }

  /* `holders` get a track or what is missing; `names` and `alt` are read out. {draw()} */
  gallery.tracks = function (clock, samples, holders, names, alt, size) {
    var level = null; // what the heights were drawn for
    var tracks = samples.map(function (record, at) {
      var made = clock.records[at] ? track(record, names[at], size, alt, at, clock) : null;
      gallery.replace(holders[at], [made ? made.slider.node : gallery.draw(record, alt, size)]);
      return made;
    });

    /* Waveforms as high as what is heard of them, the highest of the row filling its room. */
    function heights() {
      if (level === gallery.level.matched) return;
      level = gallery.level.matched;
      var most = Math.max.apply(null, clock.records.map(gallery.level.peak)) || 1;
      tracks.forEach(function (made, at) {
        if (made) made.pictures.style.setProperty("--height", Math.max(0.02, gallery.level.peak(samples[at]) / most));
      });
    }

    return {
      draw: function () {
        heights();
        tracks.forEach(function (made, at) {
          if (!made) return;
          made.slider.set(clock.time(), !clock.playing());
          made.slider.node.classList.toggle("heard", clock.lead() === at);
          made.slider.node.classList.toggle("playing", clock.wanted() && clock.lead() === at);
        });
      }
    };
  };
})();
