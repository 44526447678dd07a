/* One renderer per kind of media. A new kind is one more entry here, and one more store in stores.py.
   small(record, alt) is the item in a table, large(record, alt) the one in the lightbox; preload warms the cache.
   timed: it has a clock (clock.js); heard: it has a sound, and is listened to one at a time. A clock puts what moves into `.still`. */
(function () {
  "use strict";
  var element = gallery.element;

  function picture(address, record, alt, attributes) {
    attributes.alt = alt;
    attributes.width = record.width;
    attributes.height = record.height;
    attributes.draggable = "false";
    attributes["class"] = record.tiny ? "media tiny" : "media";
    var image = element("img", attributes);
    image.src = address; // after "loading", or the browser would fetch it at once
    return image;
  }

  function still(record, alt, attributes) {
    return element("span", { "class": "still" }, [picture(record.poster, record, alt, attributes)]);
  }

  /* The spectrum over the waveform, both along the same time. */
  function sound(record, alt, attributes) {
    var wave = element("img", { "class": "wave", alt: "", draggable: "false", loading: attributes.loading || null });
    var mel = element("img", { "class": "mel", alt: alt, draggable: "false", loading: attributes.loading || null });
    wave.src = record.wave;
    mel.src = record.mel;
    return element("span", { "class": "sound-pictures" }, [mel, element("span", { "class": "wave-room" }, [wave])]);
  }

  gallery.media = {
    image: {
      small: function (record, alt) {
        return picture(record.src, record, alt, { loading: "lazy", decoding: "async" });
      },
      large: function (record, alt) {
        return picture(record.detail || record.src, record, alt, { decoding: "sync" });
      },
      preload: function (record) {
        new Image().src = record.detail || record.src;
      }
    },
    video: {
      timed: true,
      small: function (record, alt) { return still(record, alt, { loading: "lazy", decoding: "async" }); },
      large: function (record, alt) { return still(record, alt, { decoding: "sync" }); },
      preload: function (record) { new Image().src = record.poster; }
    },
    audio: {
      timed: true,
      heard: true,
      small: function (record, alt) { return sound(record, alt, { loading: "lazy" }); },
      large: function (record, alt) { return sound(record, alt, {}); },
      preload: function (record) {
        new Image().src = record.wave;
        new Image().src = record.mel;
      }
    }
  };

  function missing(text) {
    return element("span", { "class": "missing", text: text });
  }

  /* The entry of a kind, or one that can do nothing. */
  gallery.kind = function (name) {
    return gallery.media.hasOwnProperty(name) ? gallery.media[name] : {};
  };

  /* `size` is "small" or "large"; a sample that is not there, or of a kind not known here, is said so. */
  gallery.draw = function (record, alt, size) {
    if (!record) return missing("no sample");
    var renderer = gallery.kind(record.kind);
    return renderer[size] ? renderer[size](record, alt) : missing("cannot show " + record.kind);
  };

  gallery.missing = missing;

  gallery.preload = function (record) {
    if (record && gallery.kind(record.kind).preload) gallery.kind(record.kind).preload(record);
  };
})();
