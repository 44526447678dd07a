/* Elements without markup: whatever comes from the data becomes a text node or an attribute, never HTML. */
window.gallery = {};

(function () {
  "use strict";

  function build(node, attributes, children) {
    Object.keys(attributes || {}).forEach(function (name) {
      var value = attributes[name];
      if (value === null || value === undefined || value === false) return;
      if (name === "text") node.textContent = value;
      else if (name === "on") gallery.listen(node, value);
      else node.setAttribute(name, value === true ? "" : String(value));
    });
    (children || []).forEach(function (child) {
      if (child === null || child === undefined) return;
      node.appendChild(typeof child === "object" ? child : document.createTextNode(String(child)));
    });
    return node;
  }

  gallery.element = function (tag, attributes, children) {
    return build(document.createElement(tag), attributes, children);
  };

  gallery.svg = function (tag, attributes, children) {
    return build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
  };

  gallery.listen = function (node, listeners) {
    Object.keys(listeners).forEach(function (event) {
      node.addEventListener(event, listeners[event]);
    });
  };

  gallery.replace = function (node, children) {
    while (node.firstChild) node.removeChild(node.firstChild);
    return build(node, null, children);
  };
})();
