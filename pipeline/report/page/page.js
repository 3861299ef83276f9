"use strict";
// Without it everything can be read; with it tables are sorted and filtered.
const valueOf = (row, place) => {
  const cell = row.cells[place];
  return cell.classList.contains("number")
    ? cell.dataset.value === undefined ? null : Number(cell.dataset.value)
    : cell.textContent;
};

const compare = (a, b) =>
  typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });

const sort = (table, heading) => {
  const place = heading.cellIndex;
  const before = heading.getAttribute("aria-sort");
  const first = heading.classList.contains("number") ? "descending" : "ascending";
  const other = first === "ascending" ? "descending" : "ascending";
  const order = before === first ? other : first;
  for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    const [left, right] = [valueOf(a, place), valueOf(b, place)];
    // What is not known comes last in either order.
    if (left === null || right === null) return (left === null) - (right === null);
    return sign * compare(left, right);
  });
  table.tBodies[0].append(...rows);
};

for (const table of document.querySelectorAll("table.sorts")) {
  for (const heading of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    button.addEventListener("click", () => sort(table, heading));
    heading.replaceChildren(button);
  }
}

for (const table of document.querySelectorAll("table.filters")) {
  const rows = [...table.tBodies[0].rows];
  const box = document.createElement("label");
  box.className = "filter";
  const input = document.createElement("input");
  input.type = "search";
  const told = document.createElement("span");
  told.className = "quiet";
  told.setAttribute("role", "status");
  const filter = () => {
    const wanted = input.value.trim().toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    told.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  };
  input.addEventListener("input", filter);
  box.append("Rows with ", input, told);
  table.parentElement.before(box);
  filter();
}
