/* Orders of the rows of an index, whose lines start with [prompt, tags]: as the data have them, by text, by a number. */
(function () {
  "use strict";

  function sorted(list, key, compare) {
    return list.map(function (number) { return { number: number, key: key(number) }; }).sort(function (a, b) {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.number - b.number;
      return compare(a.key, b.key) || a.number - b.number;
    }).map(function (item) { return item.number; });
  }

  /* Sorts numbers by key, largest first, unknown last, ties in the order of the data. */
  gallery.byKey = function (list, key) {
    return sorted(list, key, function (a, b) { return b - a; });
  };

  /* Tags that tell rows apart, with their values. */
  gallery.tagValues = function (index) {
    var values = {};
    index.forEach(function (row) {
      Object.keys(row[1]).forEach(function (name) {
        values["$" + name] = values["$" + name] || {};
        values["$" + name]["$" + row[1][name]] = true;
      });
    });
    return Object.keys(values).map(function (name) {
      return { name: name.slice(1), values: Object.keys(values[name]).map(function (value) { return value.slice(1); }).sort() };
    }).filter(function (tag) { return tag.values.length > 1; });
  };

  /* Choices of an order that needs no scores: [value, label]. */
  gallery.textOrders = function (index) {
    return [["data", "Order of the data"], ["prompt", "Prompt, A to Z"]].concat(gallery.tagValues(index).map(function (tag) {
      return ["tag." + tag.name, tag.name.charAt(0).toUpperCase() + tag.name.slice(1) + ", A to Z"];
    }));
  };

  /* Sorts numbers by one of textOrders, rows without the tag last; any other order leaves them as they are. */
  gallery.byText = function (list, order, index) {
    function key(number) {
      var row = index[number];
      if (order === "prompt") return row[0].toLowerCase();
      return row[1].hasOwnProperty(order.slice(4)) ? row[1][order.slice(4)].toLowerCase() : null;
    }
    if (order !== "prompt" && order.indexOf("tag.") !== 0) return list;
    return sorted(list, key, function (a, b) { return a < b ? -1 : a > b ? 1 : 0; });
  };
})();
