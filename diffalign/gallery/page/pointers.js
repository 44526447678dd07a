/* Mouse, pen and fingers on a stage: wheel and pinch enlarge, a drag moves what is enlarged or the slider's divider,
   a swipe turns to the next row, a double click enlarges or resets. */
(function () {
  "use strict";
  var GRIP = 28; // pixels around the divider within which a drag takes it even when zoomed
  var SWIPE = 48; // pixels

  /* Position of an event in a view, as shares of its size from its middle. */
  function within(view, event) {
    var box = view.getBoundingClientRect();
    return { u: (event.clientX - box.left) / box.width - 0.5, v: (event.clientY - box.top) / box.height - 0.5, box: box };
  }

  gallery.pointers = function (node, stage, act) {
    var fingers = {};
    var view = null, task = null, start = null, gap = 0;

    function list() {
      return Object.keys(fingers).map(function (id) { return fingers[id]; });
    }

    function distance() {
      var two = list();
      return Math.hypot(two[0].clientX - two[1].clientX, two[0].clientY - two[1].clientY);
    }

    function divide(event) {
      stage.split(100 * (within(view, event).u + 0.5));
    }

    function nearDivider(event) {
      var divider = view.querySelector(".divider").getBoundingClientRect();
      return Math.abs(event.clientX - divider.left - divider.width / 2) < GRIP;
    }

    function down(event) {
      var target = event.target.closest ? event.target.closest(".view") : null;
      if (!target || event.button > 0) return;
      view = target;
      fingers[event.pointerId] = event;
      node.setPointerCapture(event.pointerId);
      start = event;
      if (list().length === 2) {
        task = "pinch";
        gap = distance();
      } else if (stage.mode === "slide" && (!act.zoomed() || nearDivider(event))) {
        task = "divide";
        divide(event);
      } else {
        task = act.zoomed() ? "pan" : "swipe";
      }
    }

    function move(event) {
      var last = fingers[event.pointerId];
      if (!last) return;
      fingers[event.pointerId] = event;
      var here = within(view, event);
      if (task === "divide") divide(event);
      else if (task === "pan") act.pan((event.clientX - last.clientX) / here.box.width, (event.clientY - last.clientY) / here.box.height);
      else if (task === "pinch" && list().length === 2) {
        var now = distance();
        stage.zoom(now / gap, here.u, here.v);
        gap = now;
      }
    }

    function up(event) {
      if (!fingers[event.pointerId]) return;
      delete fingers[event.pointerId];
      var dx = event.clientX - start.clientX;
      var wide = Math.abs(dx) > SWIPE && Math.abs(dx) > 2 * Math.abs(event.clientY - start.clientY);
      if (task === "swipe" && event.type === "pointerup" && event.pointerType === "touch" && wide) act.turn(dx < 0 ? 1 : -1);
      if (!list().length) task = null;
    }

    function wheel(event) {
      var target = event.target.closest(".view");
      if (!target) return;
      event.preventDefault();
      var here = within(target, event);
      stage.zoom(Math.exp(-clampWheel(event) / 300), here.u, here.v);
    }

    function clampWheel(event) {
      var step = event.deltaMode === 1 ? event.deltaY * 24 : event.deltaY;
      return Math.max(-240, Math.min(240, step));
    }

    function double(event) {
      var target = event.target.closest(".view");
      if (!target || stage.mode === "slide") return;
      var here = within(target, event);
      if (act.zoomed()) stage.reset();
      else stage.zoom(3, here.u, here.v);
    }

    gallery.listen(node, { pointerdown: down, pointermove: move, pointerup: up, pointercancel: up, dblclick: double });
    node.addEventListener("wheel", wheel, { passive: false });
  };
})();
