"use strict";
// The page is complete without this: it filters and sorts the table of cases.
const table = document.getElementById("cases");
const form = document.getElementById("filter");
if (table && form) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const filter = () => {
    const outcomes = new Set(new FormData(form).getAll("outcome"));
    const words = form.elements.words.value.toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = !(outcomes.has(row.dataset.outcome) && row.textContent.toLowerCase().includes(words));
      shown += row.hidden ? 0 : 1;
    }
    form.elements.shown.value = shown + " of " + rows.length + " cases";
  };
  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  filter();
  const keys = [
    (row) => Number(row.dataset.rank),
    (row) => row.dataset.name,
    (row) => Number(row.dataset.seconds),
  ];
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = cell.textContent;
    cell.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = cell.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = keys[column];
      const order = (a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0);
      rows.sort((a, b) => (down ? order(b, a) : order(a, b)));
      body.append(...rows);
    });
  });
}
// A closed <details> prints as its first line only.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
