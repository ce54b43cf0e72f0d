// Tables that sort by the buttons in their heads, and boxes that choose what is seen.
"use strict";
(() => {
  const cellOf = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();

  // What is missing comes last whichever way; numbers by size, all else by its letters.
  const compare = (one, other, way) => {
    if (one === "" || other === "") return (one === "") - (other === "");
    const [a, b] = [Number(one), Number(other)];
    return way * (Number.isNaN(a) || Number.isNaN(b) ? one.localeCompare(other, "en") : a - b);
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    const bodies = [...table.tBodies].map((body) => [body, [...body.rows].filter((row) => !row.matches(".over"))]);
    for (const [column, head] of heads.entries()) {
      const button = head.querySelector("button");
      button?.addEventListener("click", () => {
        const first = button.dataset.best === "high" ? "descending" : "ascending";
        const second = first === "ascending" ? "descending" : "ascending";
        const next = { none: first, [first]: second, [second]: "none" }[head.ariaSort];
        for (const each of heads) if (each.hasAttribute("aria-sort")) each.ariaSort = "none";
        head.ariaSort = next;
        const way = { ascending: 1, descending: -1, none: 0 }[next];
        for (const [body, rows] of bodies) {
          const sorted = way ? rows.toSorted((a, b) => compare(cellOf(a, column), cellOf(b, column), way)) : rows;
          body.append(...sorted);
        }
      });
    }
  }

  const filters = [...document.querySelectorAll("fieldset[data-filter]")];
  const seen = document.querySelector("#seen");
  const choose = () => {
    const chosen = filters.map((filter) => [
      filter.dataset.filter,
      new Set([...filter.querySelectorAll("input:checked")].map((box) => box.value)),
    ]);
    for (const [name, values] of chosen)
      for (const marked of document.querySelectorAll(`[data-${name}]`)) {
        const out = !values.has(marked.dataset[name]);
        marked.toggleAttribute(`data-no-${name}`, out);
        const gone = chosen.some(([other]) => marked.hasAttribute(`data-no-${other}`));
        marked.toggleAttribute("hidden", gone);
      }
    if (seen) {
      const rows = [...document.querySelectorAll(".figures tbody tr:not(.over)")];
      const left = rows.filter((row) => !row.closest("[hidden]")).length;
      seen.textContent = left === rows.length ? "" : `${left} of ${rows.length} rows`;
    }
  };
  for (const filter of filters) filter.addEventListener("change", choose);
  if (filters.length) choose(); // a page that was gone back to keeps its ticks
})();
