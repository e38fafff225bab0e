"use strict";
(() => {
  const rows = JSON.parse(document.getElementById("rows").textContent);
  const dialog = document.getElementById("row");
  const title = document.getElementById("row-title");
  const picture = document.getElementById("row-picture");
  const tables = document.getElementById("row-tables");
  const root = document.getElementById("root");
  let opened = null;

  const isTile = (key) => Object.prototype.hasOwnProperty.call(rows, key);
  const pictures = document.getElementById("pictures");
  const tilesOf = (part) => [...part.querySelectorAll(".sheet:not([hidden]) li:not([hidden]) > .tile")];

  function element(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function tableOf(caption, values) {
    const table = element("table", "plain");
    table.append(element("caption", "", caption));
    const body = table.createTBody();
    for (const [name, value] of values) {
      const line = body.insertRow();
      const head = element("th", "", name);
      head.scope = "row";
      const cell = element("td");
      cell.append(value === null ? element("i", "null", "none") : element("bdi", "name", value));
      line.append(head, cell);
    }
    return table;
  }

  function open(key) {
    const tile = document.getElementById(key);
    const sheet = tile.closest(".sheet");
    const all = [...sheet.querySelectorAll(".tile")];
    title.textContent = `${sheet.dataset.title} · ${all.indexOf(tile) + 1} of ${all.length}`;
    picture.replaceChildren(...[...tile.children].map((child) => child.cloneNode(true)));
    tables.replaceChildren(...rows[key].map(([caption, values]) => tableOf(caption, values)));
    opened = key;
    history.replaceState(null, "", `#${key}`);
    if (!dialog.open) dialog.showModal();
    dialog.querySelector(".body").scrollTop = 0;
  }

  function step(by) {
    const all = tilesOf(document.getElementById(opened).closest("main > section"));
    const place = all.findIndex((tile) => tile.id === opened);
    if (all.length) open(all[(place + by + all.length) % all.length].id);
  }

  dialog.addEventListener("close", () => {
    history.replaceState(null, "", location.pathname + location.search);
    const tile = document.getElementById(opened);
    if (tile) tile.focus();
    opened = null;
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") step(1);
    else if (event.key === "ArrowLeft") step(-1);
    else return;
    event.preventDefault();
  });
  document.getElementById("close").addEventListener("click", () => dialog.close());
  document.getElementById("previous").addEventListener("click", () => step(-1));
  document.getElementById("next").addEventListener("click", () => step(1));

  document.querySelector("main").addEventListener("click", (event) => {
    const tile = event.target.closest(".tile");
    if (!tile || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    open(tile.id);
  });

  function filter() {
    const group = document.querySelector("input[name=group]:checked").value;
    const wanted = root ? root.value : "";
    for (const sheet of pictures.querySelectorAll(".sheet")) {
      let count = 0;
      for (const item of sheet.querySelectorAll("li")) {
        item.hidden = wanted !== "" && item.dataset.root !== wanted;
        count += item.hidden ? 0 : 1;
      }
      sheet.hidden = count === 0 || (group !== "" && sheet.dataset.group !== group);
    }
    const count = tilesOf(pictures).length;
    document.getElementById("shown").textContent = `${count} shown`;
    document.getElementById("nothing").hidden = count > 0;
  }

  // A link to a sheet or a picture that the filter hides takes the filter back.
  function follow() {
    const key = location.hash.slice(1);
    const target = key && document.getElementById(key);
    if (!target || !target.closest(".sheet")) return;
    if (target.closest("[hidden]")) {
      document.querySelector("input[name=group][value='']").checked = true;
      if (root) root.value = "";
      filter();
      target.scrollIntoView();
    }
    if (isTile(key)) open(key);
  }

  document.querySelector(".controls").hidden = false;
  document.querySelector(".controls").addEventListener("change", filter);
  document.getElementById("marks").addEventListener("change", (event) => {
    document.body.classList.toggle("marked", event.target.checked);
  });
  addEventListener("hashchange", follow);
  addEventListener("beforeprint", () => document.querySelectorAll("section > details").forEach((one) => (one.open = true)));
  filter();
  follow();
})();
