/* One renderer per kind of media. A new kind is one more entry here, and one more store in pictures.py.
   small(record, alt) is the item in a table, large(record, alt) the one in the lightbox; preload warms the cache. */
(function () {
  "use strict";

  function picture(address, record, alt, attributes) {
    attributes.alt = alt;
    attributes.width = record.width;
    attributes.height = record.height;
    attributes.draggable = "false";
    attributes["class"] = record.tiny ? "media tiny" : "media";
    var image = gallery.element("img", attributes);
    image.src = address; // after "loading", or the browser would fetch it at once
    return image;
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
    }
  };

  function missing(text) {
    return gallery.element("span", { "class": "missing", text: text });
  }

  /* `size` is "small" or "large"; a sample that is not there, or of a kind not known here, is said so. */
  gallery.draw = function (record, alt, size) {
    if (!record) return missing("no sample");
    var renderer = gallery.media.hasOwnProperty(record.kind) ? gallery.media[record.kind] : null;
    return renderer ? renderer[size](record, alt) : missing("cannot show " + record.kind);
  };

  gallery.missing = missing;

  gallery.preload = function (record) {
    if (record && gallery.media.hasOwnProperty(record.kind)) gallery.media[record.kind].preload(record);
  };
})();
