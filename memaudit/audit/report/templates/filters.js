"use strict";
// Shows the rows, and their marks in the charts, whose names hold every word and whose verdict fits.
const box = document.getElementById("filters");
const [words, verdict, shown] = ["input", "select", "output"].map((name) => box.querySelector(name));
const rows = [...document.querySelectorAll("tr[data-name]")];
const marks = [...document.querySelectorAll("g[data-name]")];
const lines = [...document.querySelectorAll("polyline.curve")];
const verdictOf = new Map(rows.map((row) => [row.dataset.name, row.dataset.verdict]));
function filter() {
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (name) =>
    wanted.every((word) => name.toLowerCase().includes(word)) &&
    (!verdict.value || verdictOf.get(name) === verdict.value);
  for (const each of [...rows, ...marks]) {
    each.toggleAttribute("hidden", !fits(each.dataset.name));
  }
  const number = rows.filter((row) => !row.hidden).length;
  for (const line of lines) line.toggleAttribute("hidden", number < rows.length);
  shown.textContent = `${number} / ${rows.length}`;
}
box.hidden = false;
words.addEventListener("input", filter);
verdict.addEventListener("change", filter);
filter();
