(function () {
  "use strict";
  document.documentElement.classList.add("js");
  var every = function (query, root) {
    return Array.prototype.slice.call((root || document).querySelectorAll(query));
  };

  // Tables sort by their heads; a cell's data-v is its value, its text otherwise.
  every("table.sortable").forEach(function (table) {
    every("thead tr:last-child th", table).forEach(function (head, place) {
      var button = document.createElement("button");
      button.type = "button";
      while (head.firstChild) button.appendChild(head.firstChild);
      head.appendChild(button);
      button.addEventListener("click", function () {
        var down = head.getAttribute("aria-sort") === "ascending";
        var numeric = head.classList.contains("num");
        if (numeric && !head.hasAttribute("aria-sort")) down = true;
        every("thead th", table).forEach(function (other) { other.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        var value = function (row) {
          var cell = row.children[place];
          return cell.hasAttribute("data-v") ? +cell.getAttribute("data-v") : cell.textContent;
        };
        var body = table.tBodies[0];
        every("tr", body).map(function (row, index) { return [value(row), index, row]; })
          .sort(function (a, b) {
            var order = numeric ? a[0] - b[0] : String(a[0]).localeCompare(String(b[0]));
            return (down ? -order : order) || a[1] - b[1];
          })
          .forEach(function (entry) { body.appendChild(entry[2]); });
      });
    });
  });

  // The charts of the columns: order and a filter by name.
  var cards = every("#column-cards > .column");
  var grid = document.getElementById("column-cards");
  var order = document.getElementById("column-order");
  var filter = document.getElementById("column-filter");
  if (order) order.addEventListener("change", function () {
    cards.slice().sort(function (a, b) {
      return order.value === "table" ? a.dataset.place - b.dataset.place
        : b.dataset.excess - a.dataset.excess;
    }).forEach(function (card) { grid.appendChild(card); });
  });
  if (filter) filter.addEventListener("input", function () {
    var wanted = filter.value.toLowerCase();
    cards.concat(every("#column-table tbody tr")).forEach(function (item) {
      item.hidden = item.dataset.name.toLowerCase().indexOf(wanted) < 0;
    });
  });

  // The maps show the value under the pointer.
  var source = document.getElementById("maps-data");
  if (source) {
    var data = JSON.parse(source.textContent);
    var tip = document.createElement("div");
    tip.id = "tip";
    tip.hidden = true;
    document.body.appendChild(tip);
    every("[data-map]").forEach(function (area) {
      var values = data[area.dataset.map];
      area.addEventListener("pointermove", function (event) {
        var box = area.getBoundingClientRect();
        var n = data.names.length;
        var x = Math.min(n - 1, Math.max(0, Math.floor((event.clientX - box.left) / box.width * n)));
        var y = Math.min(n - 1, Math.max(0, Math.floor((event.clientY - box.top) / box.height * n)));
        tip.textContent = data.names[y] + " × " + data.names[x] + ": " + values[y][x].toFixed(2).replace(/^-(0\.00)$/, "$1");
        tip.hidden = false;
        var left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8);
        tip.style.left = Math.max(8, left) + "px";
        tip.style.top = event.clientY + 16 + "px";
      });
      area.addEventListener("pointerleave", function () { tip.hidden = true; });
    });
  }

  window.addEventListener("beforeprint", function () {
    every("details").forEach(function (part) { part.open = true; });
  });
})();
