
// Jobs are shown that have all that is chosen, and all words that are looked for.
{
  const rows = [...document.querySelectorAll("#jobs tbody tr")];
  const heads = [...document.querySelectorAll("#jobs thead th")];
  const find = document.querySelector("#find");
  const choices = [...document.querySelectorAll(".filters select")].map((select) => [
    select,
    heads.findIndex((head) => head.dataset.name === select.dataset.column),
  ]);
  let texts;
  const update = () => {
    texts ??= rows.map((row) => row.textContent.toLowerCase());
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, index) => {
      const fits =
        words.every((word) => texts[index].includes(word)) &&
        choices.every(([select, column]) => !select.value || row.cells[column].textContent === select.value);
      row.hidden = !fits;
      shown += fits;
    });
    const all = rows.length.toLocaleString("en");
    document.querySelector("#shown").textContent =
      shown === rows.length ? `${all} jobs` : `${shown.toLocaleString("en")} of ${all} jobs`;
  };
  find.addEventListener("input", update);
  for (const [select] of choices) select.addEventListener("change", update);
}
