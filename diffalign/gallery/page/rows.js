/* One page of rows: prompt on the left, one item per column, scores with their difference to the base column under it.
   Scores come from the index, so a row has its final height before its media arrives. */
(function () {
  "use strict";
  var element = gallery.element;

  /* The scores of one sample; `table` is what listing.js describes. */
  gallery.scores = function (table, row, column, shown) {
    var mine = row[2][column];
    var base = row[2][table.base];
    if (!mine) return element("dl", { "class": "scores" });
    return element("dl", { "class": "scores" }, shown.map(function (name) {
      var at = table.scores.indexOf(name);
      var value = at < mine.length ? mine[at] : null;
      var other = base && column !== table.base && at < base.length ? base[at] : null;
      var known = gallery.numbers.isNumber(value) && gallery.numbers.isNumber(other);
      return element("div", { title: name }, [
        element("dt", { text: name }),
        element("dd", {}, [
          gallery.numbers.show(value, table.digits[at]),
          known ? gallery.numbers.change(value - other, table.digits[at], table.roles[at] === "guard" ? "same" : null) : null
        ])
      ]);
    }));
  };

  gallery.tags = function (row) {
    return Object.keys(row[1]).map(function (name) {
      return element("span", { "class": "tag", title: name, text: row[1][name] });
    });
  };

  function item(table, row, number, column, open) {
    var name = table.columns[column].name;
    var button = element("button", {
      type: "button", "class": "item", "data-row": number, "data-column": column, "aria-label": name + ": " + row[0],
      on: { click: function () { open(number, column, button); } }
    });
    return button;
  }

  /* {node, close()} */
  function drawRow(table, number, shown, open) {
    var row = table.index[number];
    var buttons = table.columns.map(function (column, at) { return item(table, row, number, at, open); });
    var player = gallery.player(table, row);
    var closed = false;
    var node = rowNode(table, row, buttons, player, shown);
    gallery.samples(table.name, number, function (samples) {
      if (closed) return;
      buttons.forEach(function (button, at) {
        var sample = samples && samples[at];
        button.disabled = !samples;
        gallery.replace(button, [samples ? gallery.draw(sample, row[0], "small") : gallery.missing("did not load")]);
      });
      if (player) player.load(samples, buttons, node);
    });
    return {
      node: node,
      close: function () {
        closed = true;
        if (player) player.close();
      }
    };
  }

  /* What the prompt came with. */
  function condition(table, row) {
    var more = row[table.more];
    if (!more || !more.condition) return null;
    return element("div", { "class": "condition", title: "Given with the prompt" }, [gallery.draw(more.condition, "given with the prompt", "small")]);
  }

  function rowNode(table, row, buttons, player, shown) {
    return element("div", { "class": "row", role: "row" }, [
      element("div", { "class": "prompt", role: "rowheader" }, [
        condition(table, row),
        element("p", { "class": "prompt-text", title: row[0], dir: "auto", text: row[0] }),
        element("p", { "class": "notes" }, table.notes(row).concat(gallery.tags(row))),
        player ? player.note : null
      ])
    ].concat(buttons.map(function (button, at) {
      return element("div", { "class": "cell", role: "cell" }, [player ? player.cell(at, button) : button, gallery.scores(table, row, at, shown)]);
    })));
  }

  function drawHead(table) {
    return element("div", { "class": "row", role: "row" }, [
      element("div", { "class": "prompt", role: "columnheader", text: "Prompt" })
    ].concat(table.columns.map(function (column, at) {
      return element("div", { "class": "cell", role: "columnheader", title: column.detail || column.name }, [
        element("span", { "class": "column-name", text: column.name }),
        at === table.base && table.baseName && table.baseName !== column.name ? element("span", { "class": "badge", text: table.baseName }) : null,
        column.detail ? element("span", { "class": "detail", text: column.detail }) : null
      ]);
    })));
  }

  /* {node, show(numbers, shown)}: draw the rows of these numbers with these scores. */
  gallery.rows = function (table, open) {
    var head = element("div", { "class": "rows-head", role: "rowgroup" }, [drawHead(table)]);
    var body = element("div", { "class": "rows-body", role: "rowgroup" });
    var node = element("div", { "class": "rows", role: "table", "aria-label": table.label }, [head, body]);
    node.style.setProperty("--ratio", table.frame.width + " / " + table.frame.height);
    // The head sticks to the window and the body scrolls sideways, which one scrolling box cannot do: so two, in step.
    gallery.listen(body, { scroll: function () { head.scrollLeft = body.scrollLeft; } });
    node.setAttribute("data-kind", table.frame.kind);
    var drawn = [];
    return {
      node: node,
      show: function (numbers, shown) {
        drawn.forEach(function (row) { row.close(); });
        drawn = numbers.map(function (number) { return drawRow(table, number, shown, open); });
        gallery.replace(body, drawn.map(function (row) { return row.node; }));
        if (!numbers.length) body.appendChild(element("p", { "class": "notice", text: "No row fits these filters." }));
      }
    };
  };
})();
