// A click on a column head sorts its table, long tables get a box that filters rows, and a link opens the answer that
// it points to. The page is readable without this script.
const value = (row, column) => row.cells[column].textContent.replaceAll("\u2212", "-").replaceAll(",", "").trim();

function sort(table, head) {
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = (row) => value(row, head.cellIndex);
  const order = (a, b) => parseFloat(key(a)) - parseFloat(key(b)) || key(a).localeCompare(key(b), "en", {numeric: true});
  const rows = [...table.tBodies[0].rows].sort((a, b) => (down ? order(b, a) : order(a, b)));
  table.tBodies[0].append(...rows);
}

function filter(table) {
  const box = Object.assign(document.createElement("input"), {type: "search", placeholder: "filter rows"});
  box.setAttribute("aria-label", "Filter rows");
  box.oninput = () => {
    for (const row of table.tBodies[0].rows) row.hidden = !row.textContent.toLowerCase().includes(box.value.toLowerCase());
  };
  table.parentElement.before(box);
}

for (const table of document.querySelectorAll("table.sorted")) {
  for (const head of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    button.onclick = () => sort(table, head);
    head.append(button);
  }
  if (table.tBodies[0].rows.length > 10) filter(table);
}

function reveal() {
  const target = document.getElementById(location.hash.slice(1));
  const fold = target?.closest("details");
  if (fold && !fold.open) {
    fold.open = true;
    target.scrollIntoView();
  }
}
addEventListener("hashchange", reveal);
reveal();
