/* Data arrives through <script> tags, because a page opened from disk may not fetch files.
   Each file calls galleryData(name, value); gallery.load(name, done) adds the tag when a file is first needed. */
(function () {
  "use strict";
  var loaded = {};
  var waiting = {};

  window.galleryData = function (name, value) {
    loaded[name] = value;
  };

  gallery.loaded = function (name) {
    return loaded.hasOwnProperty(name) ? loaded[name] : null;
  };

  /* Calls done(value), or done(null) when data/NAME.js cannot be loaded. */
  gallery.load = function (name, done) {
    if (loaded.hasOwnProperty(name)) return done(loaded[name]);
    if (waiting[name]) return waiting[name].push(done);
    waiting[name] = [done];
    var script = gallery.element("script", { src: "data/" + name + ".js" });
    function finish() {
      var callbacks = waiting[name];
      delete waiting[name];
      script.parentNode.removeChild(script);
      callbacks.forEach(function (callback) {
        callback(gallery.loaded(name));
      });
    }
    gallery.listen(script, { load: finish, error: finish });
    document.head.appendChild(script);
  };

  /* The samples of one row of a table, by its number in the index: a list of media records and nulls, or null. */
  gallery.samples = function (table, row, done) {
    var size = gallery.loaded("gallery").chunk;
    var chunk = String(Math.floor(row / size));
    while (chunk.length < 4) chunk = "0" + chunk;
    gallery.load(table + "/" + chunk, function (rows) {
      done(rows ? rows[row % size] : null);
    });
  };
})();
