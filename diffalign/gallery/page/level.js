/* How loud sounds are: all of a row alike, or as they were made. A record's gain, at most 1, makes it as loud as the quietest. */
(function () {
  "use strict";
  var element = gallery.element;
  var numbers = gallery.numbers;

  function decibels(ratio) {
    return 20 * Math.log(ratio) / Math.LN10;
  }

  function lufs(record) {
    return numbers.isNumber(record.loudness) ? numbers.show(record.loudness, 1) + " LUFS" : "silent";
  }

  function title(record) {
    var parts = ["Integrated loudness (ITU-R BS.1770)"];
    if (record.peak > 0) parts.push("peak " + numbers.show(decibels(record.peak), 1) + " dB");
    if (numbers.isNumber(record.rms)) parts.push("RMS " + numbers.show(record.rms, 1) + " dB");
    if (record.gain < 1) parts.push("heard " + numbers.show(-decibels(record.gain), 1) + " dB quieter while loudness is matched");
    return parts.join(", ");
  }

  gallery.level = {
    matched: true,

    /* The volume of an element: 0 to 1. */
    of: function (record) {
      return gallery.level.matched ? record.gain : 1;
    },

    set: function (matched) {
      gallery.level.matched = matched;
      gallery.clocks.each(function (clock) { clock.level(); });
      gallery.clocks.each(function (clock) { if (clock.kind === "audio") clock.redraw(); });
    },

    /* The largest value that is heard, of full scale. */
    peak: function (record) {
      return record ? record.peak * gallery.level.of(record) : 0;
    },

    /* Loudness as it was made, and how far it is from the base's. */
    note: function (record, base) {
      if (!record || record.kind !== "audio") return [];
      var known = base && base !== record && numbers.isNumber(base.loudness) && numbers.isNumber(record.loudness);
      var change = known ? numbers.change(record.loudness - base.loudness, 1, "same") : null;
      if (change && numbers.sign(record.loudness - base.loudness, 1)) change.appendChild(document.createTextNode(" LU"));
      return [element("span", { "class": "level", title: title(record) }, [element("span", { text: lufs(record) }), change])];
    },

    control: function (changed) {
      return gallery.controls.toggle("Loudness matched", changed, "The sounds of a row are played as loud as its quietest; off: as they were made");
    },

    /* Some telephones leave the volume to their buttons. */
    works: function () {
      var probe = document.createElement("audio");
      probe.volume = 0.5;
      return probe.volume === 0.5;
    }
  };
})();
