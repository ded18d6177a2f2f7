"use strict";
// A column's head sorts all rows by it, best first, then worst first, then brings back the order of the files.
document.documentElement.classList.add("script");
for (const table of document.querySelectorAll("table.sortable")) {
  const home = [...table.tBodies].map((body) => [body, [...body.rows]]);
  const rows = home.flatMap(([, all]) => all.filter((row) => !row.classList.contains("group")));
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const opposite = { ascending: "descending", descending: "ascending" };

  const value = (row, column) => {
    const cell = row.cells[column];
    const text = "value" in cell.dataset ? cell.dataset.value : cell.textContent;
    if (text === "") return null;
    if (!cell.classList.contains("num")) return text;
    return text === "inf" ? Infinity : text === "-inf" ? -Infinity : Number(text);
  };

  const compare = (a, b) =>
    typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a < b ? -1 : a > b ? 1 : 0;

  const sort = (head, column) => {
    const first = head.dataset.first || "ascending";
    const now = head.getAttribute("aria-sort");
    const next = now === null ? first : now === first ? opposite[first] : null;
    for (const other of heads) other.removeAttribute("aria-sort");
    table.classList.toggle("sorted", next !== null);
    if (next === null) {
      for (const [body, all] of home) body.append(...all);
      return;
    }
    head.setAttribute("aria-sort", next);
    const keyed = rows.map((row) => [value(row, column), row]);
    const known = keyed.filter(([key]) => key !== null);
    const unknown = keyed.filter(([key]) => key === null);
    known.sort(([a], [b]) => (next === "ascending" ? compare(a, b) : compare(b, a)));
    home[0][0].append(...[...known, ...unknown].map(([, row]) => row));
  };

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(head, column));
  });
}
