"use strict";
document.documentElement.classList.add("script");

// A column's head sorts all rows by it, best first, then worst first, then brings back the order of the files.
// Values within error of each other have one rank: their rows keep that order.
for (const table of document.querySelectorAll("table.sortable")) {
  const home = [...table.tBodies].map((body) => [body, [...body.rows]]);
  const lines = home.flatMap(([, all]) => all);
  const groups = lines.filter((line) => line.classList.contains("group"));
  const rows = lines.filter((line) => !line.classList.contains("group"));
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const back = table.closest("section").querySelector(".original-order");
  const opposite = { ascending: "descending", descending: "ascending" };

  // A cell has a rank or a value of its own, or is sorted by its text: in columns of numbers, by the number there.
  const rank = (row, column) => {
    const cell = row.cells[column];
    if (heads[column].dataset.kind === "number") {
      const number = Number.parseFloat((cell.firstChild?.textContent ?? "").replace(/[<+,]/g, ""));
      return Number.isNaN(number) ? null : number;
    }
    const text = cell.dataset.rank ?? cell.dataset.value ?? cell.textContent;
    return text === "" ? null : "rank" in cell.dataset ? Number(text) : text;
  };

  const compare = (a, b) =>
    typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b;

  const mark = (head, order) => {
    for (const other of heads) other.removeAttribute("aria-sort");
    head?.setAttribute("aria-sort", order);
    back.hidden = !head;
  };

  const restore = () => {
    mark(null);
    for (const [body, all] of home) body.append(...all);
  };

  const sort = (head, column) => {
    const first = head.dataset.first || "ascending";
    const now = head.getAttribute("aria-sort");
    const next = now === null ? first : now === first ? opposite[first] : null;
    if (next === null) return restore();
    mark(head, next);
    const keyed = rows.map((row) => [rank(row, column), row]);
    const known = keyed.filter(([key]) => key !== null);
    const unknown = keyed.filter(([key]) => key === null);
    known.sort(([a], [b]) => (next === first ? compare(a, b) : compare(b, a)));
    // The lines that say how each file was measured stay above the rows.
    home[0][0].append(...groups, ...[...known, ...unknown].map(([, row]) => row));
  };

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(head, column));
  });
  back.addEventListener("click", () => {
    restore();
    heads[0].querySelector("button").focus();
  });
}

// What belongs to a row is highlighted with it: its line in the table, its card, its points, lines and names in plots.
const highlight = (key) => {
  for (const element of document.querySelectorAll("[data-row]")) {
    element.classList.toggle("lit", element.dataset.row === key);
  }
};
for (const event of ["pointerover", "focusin"]) {
  document.addEventListener(event, ({ target }) => {
    const owner = target.closest("[data-row]");
    highlight(owner ? owner.dataset.row : null);
  });
}

// A table that is wider than its box says so; one that is not has a head that stays at the top of the window.
for (const box of document.querySelectorAll(".scroll")) {
  const look = () => {
    const hidden = box.scrollWidth - box.clientWidth - box.scrollLeft;
    box.parentElement.classList.toggle("more", hidden > 1);
    box.classList.toggle("fits", !box.classList.contains("long") && box.firstElementChild.offsetWidth <= box.clientWidth);
  };
  box.addEventListener("scroll", look, { passive: true });
  new ResizeObserver(look).observe(box);
  look();
}
