// Tables of the pages: sorted by a click on a head; long ones are filtered, and taken away as CSV.
// Without scripts they stay what they are: tables.
"use strict";
(() => {
  const SORTED = 4, LONG = 8; // rows from which a table gets buttons, and a field above it
  const WORD = 20, SENTENCE = 40; // characters up to which a cell keeps to one line, and from which it is not squeezed

  const textOf = (cell) => cell.textContent.trim();

  // The number that a cell begins with ("29.7 ± 0.4", "1,021", "about 8,900"), or NaN.
  const numberOf = (text) => {
    const found = text.replace(/^(about|at most|up to) /, "").match(/^[-+−]?[\d,]*\.?\d+(e[-+]?\d+)?/);
    return found ? Number(found[0].replace(/,/g, "").replace("−", "-")) : NaN;
  };

  function comparison(rows, column) {
    const filled = rows.map((row) => textOf(row.cells[column])).filter(Boolean);
    const numeric = filled.length > 0 && filled.every((text) => !Number.isNaN(numberOf(text)));
    return (a, b) => {
      const [x, y] = [textOf(a.cells[column]), textOf(b.cells[column])];
      if (!x || !y) return null; // empty cells stay last, whatever the order
      return numeric ? numberOf(x) - numberOf(y) : x.localeCompare(y, "en", { numeric: true });
    };
  }

  function sort(table, column, ascending) {
    const body = table.tBodies[0], rows = [...body.rows], compare = comparison(rows, column);
    const empty = (row) => (textOf(row.cells[column]) ? 0 : 1);
    rows.sort((a, b) => compare(a, b) === null ? empty(a) - empty(b) : (ascending ? 1 : -1) * compare(a, b));
    body.append(...rows);
    [...table.tHead.rows[0].cells].forEach((head, i) =>
      i === column ? head.setAttribute("aria-sort", ascending ? "ascending" : "descending") : head.removeAttribute("aria-sort"));
  }

  function sortable(table) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, column, head.getAttribute("aria-sort") !== "ascending"));
      head.append(button);
    });
  }

  function csv(table) {
    const rows = [table.tHead.rows[0], ...[...table.tBodies[0].rows].filter((row) => !row.hidden)];
    const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);
    return rows.map((row) => [...row.cells].map((cell) => quoted(textOf(cell))).join(",")).join("\r\n") + "\r\n";
  }

  function download(table, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv(table)], { type: "text/csv" }));
    link.download = `${name}.csv`;
    link.click();
    URL.revokeObjectURL(link.href);
  }

  function tools(table, name) {
    const bar = document.createElement("div"), label = document.createElement("label");
    const field = document.createElement("input"), shown = document.createElement("output");
    const button = document.createElement("button"), rows = [...table.tBodies[0].rows];
    const count = () => {
      const left = rows.filter((row) => !row.hidden).length;
      shown.textContent = left === rows.length ? `${left} rows` : `${left} of ${rows.length} rows`;
    };
    bar.className = "table-tools";
    field.type = "search";
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/);
      rows.forEach((row) => (row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word))));
      count();
    });
    label.append("Filter ", field);
    button.type = "button";
    button.textContent = "Download CSV";
    button.addEventListener("click", () => download(table, name));
    count();
    bar.append(label, shown, button);
    return bar;
  }

  // The page, and the section that a table stands in.
  function nameOf(table) {
    const headings = [...document.querySelectorAll("article h1, article h2, article h3")];
    const above = headings.filter((h) => h.compareDocumentPosition(table) & Node.DOCUMENT_POSITION_FOLLOWING);
    return above.length ? above[above.length - 1].id || "table" : "table";
  }

  for (const table of document.querySelectorAll("article table:not([class])")) {
    if (!table.tHead || table.closest(".doc") || table.tBodies[0].rows.length < SORTED) continue;
    sortable(table);
    for (const cell of table.querySelectorAll("td")) {
      cell.classList.toggle("short", textOf(cell).length <= WORD);
      cell.classList.toggle("long", textOf(cell).length >= SENTENCE);
    }
    const wide = document.createElement("div");
    wide.className = "wide";
    wide.tabIndex = 0; // so that the keyboard can scroll it
    wide.setAttribute("role", "region");
    wide.setAttribute("aria-label", `Table: ${nameOf(table)}`);
    table.replaceWith(wide);
    if (table.tBodies[0].rows.length >= LONG) wide.before(tools(table, nameOf(table)));
    wide.append(table);
  }
})();
