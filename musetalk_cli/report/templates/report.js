"use strict";
(() => {
{% include "wipe.js" %}
  const {shots, rows, findings, kinds, outcomes, columns} = JSON.parse(document.getElementById("data").textContent);
  const by = (id) => document.getElementById(id);
  const A_PAGE = 50;
  const AT = Object.fromEntries(columns.map((name, place) => [name, place]));
  const [SHOT, TRACK, PERSON, FROM, TO, WHAT, WHY, FIGURES, START, STOP] = rows.length ? rows[0].keys() : [];

  function made(name, text, more = {}) {
    const node = document.createElement(name);
    if (text !== undefined) node.textContent = text;
    for (const [key, value] of Object.entries(more)) node.setAttribute(key, value);
    return node;
  }

  function clock(seconds) {
    const tenths = Math.floor(Math.max(seconds, 0) * 10 + 1e-6);
    const minutes = Math.floor(tenths / 600);
    const rest = ((tenths % 600) / 10).toFixed(1).padStart(4, "0");
    return minutes < 60 ? `${minutes}:${rest}` : `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${rest}`;
  }

  // ---- the table ------------------------------------------------------------------------------------------------------------

  const ofShot = Map.groupBy ? Map.groupBy(findings, (one) => one[1]) : grouped(findings);

  function grouped(all) {
    const groups = new Map();
    for (const one of all) groups.set(one[1], [...(groups.get(one[1]) ?? []), one]);
    return groups;
  }

  const found = rows.map((row) => (ofShot.get(row[SHOT]) ?? []).filter(
    ([, , track, start, stop]) => (track === null || track === row[TRACK]) && start < row[STOP] && stop > row[START]));
  const figure = (row, name) => row[FIGURES] ? row[FIGURES][AT[name]] : null;
  const plain = (digits) => (value) => value.toFixed(digits);
  const percent = (value) => `${(value * 100).toFixed(0)} %`;
  const signed = (value) => `${value > 0 ? "+" : ""}${value.toFixed(0)} ms`;

  // name, figure or function for sorting, how it is written, the film's own beside it, the kinds of finding that speak of it
  const COLUMNS = [
    ["Shot", (row) => row[FROM]],
    ["Person", (row) => row[PERSON] || (row[TRACK] < 0 ? "" : `#${row[TRACK]}`)],
    ["Decision", (row) => `${outcomes[row[WHAT]]} ${row[WHY]}`],
    ["Findings", (row, place) => found[place].length],
    ["Mouths", "rows", plain(0)],
    ["Confidence", "confidence", plain(2), "film_confidence", ["weak sync"]],
    ["Offset", "offset_ms", signed, null, ["shift"]],
    ["Follows", "lip_r", plain(2)],
    ["Jitter", "jitter", plain(1), "film_jitter", ["jitter"]],
    ["Movement", "movement", plain(3), "film_movement", ["frozen mouth"]],
    ["Change", "change", plain(1), null, ["no-op"]],
    ["Sharpness", "sharpness", percent, null, ["blurred"]],
    ["Seam", "seam", plain(2), null, ["seam"]],
  ];
  const state = {by: 0, down: false, at: 0, open: new Set(), shown: []};

  const valueOf = (place) => {
    const of = COLUMNS[state.by][1];
    return typeof of === "string" ? figure(rows[place], of) : of(rows[place], place);
  };

  function select() {
    const text = by("find").value.trim().toLowerCase(), what = by("what").value, only = by("only").checked;
    state.shown = [...rows.keys()].filter((place) => {
      const row = rows[place];
      return (!only || found[place].length) && (!what || outcomes[row[WHAT]] === what) &&
        (!text || `${row[PERSON]} ${row[WHY]} ${found[place].map((one) => `${kinds[one[0]]} ${one[5]}`).join(" ")}`.toLowerCase().includes(text));
    });
    const values = new Map(state.shown.map((place) => [place, valueOf(place)]));
    const turn = state.down ? -1 : 1;
    state.shown.sort((a, b) => {
      const [one, other] = [values.get(a), values.get(b)];
      if (one === null || other === null) return (one === null) - (other === null) || a - b; // what was not measured comes last
      return turn * (typeof one === "string" ? one.localeCompare(other) : one - other) || a - b;
    });
  }

  function show() {
    state.at = Math.max(0, Math.min(state.at, Math.floor((state.shown.length - 1) / A_PAGE)));
    const part = state.shown.slice(state.at * A_PAGE, (state.at + 1) * A_PAGE);
    document.querySelector("#table tbody").replaceChildren(...part.flatMap((place) => state.open.has(place) ? [line(place), detail(place)] : [line(place)]));
    document.querySelectorAll("#table th").forEach((cell, number) =>
      number === state.by ? cell.setAttribute("aria-sort", state.down ? "descending" : "ascending") : cell.removeAttribute("aria-sort"));
    const pages = Math.max(Math.ceil(state.shown.length / A_PAGE), 1);
    by("count").textContent = state.shown.length === rows.length ? `${rows.length} rows` : `${state.shown.length} of ${rows.length} rows`;
    by("where").textContent = `Page ${state.at + 1} of ${pages}`;
    by("pager").hidden = pages === 1;
    by("back").disabled = state.at === 0;
    by("next").disabled = state.at >= pages - 1;
  }

  function line(place) {
    const row = rows[place];
    const tr = made("tr", undefined, {"data-place": place, role: "row"});
    COLUMNS.forEach(([name, of, written, film, speaks], number) => {
      const td = made("td", undefined, {"data-name": name, role: "cell"});
      if (number === 0) {
        const button = made("button", `Shot ${row[SHOT] + 1}`, {type: "button", class: "open", "aria-expanded": state.open.has(place)});
        button.addEventListener("click", () => toggle(place));
        td.append(button, made("span", `${clock(row[FROM])}–${clock(row[TO])}`, {class: "time"}));
      } else if (name === "Decision") {
        td.className = "said";
        td.append(made("b", outcomes[row[WHAT]]), made("span", row[WHY] ? `: ${row[WHY]}` : ""));
      } else if (name === "Findings") {
        td.textContent = [...new Set(found[place].map((one) => kinds[one[0]]))].join(", ");
        td.className = td.textContent ? "off" : "none";
      } else if (typeof of === "string") {
        const value = figure(row, of), beside = film ? figure(row, film) : null;
        td.className = "number";
        td.textContent = value === null ? "–" : written(value);
        if (value === null) td.classList.add("none");
        if (beside !== null && value !== null) td.append(made("small", `film ${written(beside)}`));
        if (speaks && found[place].some((one) => speaks.includes(kinds[one[0]]))) td.classList.add("off");
      } else {
        td.textContent = of(row, place);
        if (!td.textContent) td.className = "none";
      }
      tr.append(td);
    });
    return tr;
  }

  function detail(place) {
    const row = rows[place], number = row[SHOT] + 1;
    const tr = made("tr", undefined, {class: "detail", role: "row"});
    const td = made("td", undefined, {colspan: COLUMNS.length, role: "cell"});
    const list = made("ul", undefined, {class: "findings"});
    for (const one of found[place]) {
      const item = made("li"), kind = made("span");
      kind.append(made("span", kinds[one[0]], {class: kinds[one[0]] === "needs review" ? "kind review" : "kind"}));
      item.append(kind, made("span", `frames ${one[3]} to ${one[4] - 1}`, {class: "where"}), made("span", one[5], {class: "text"}));
      list.append(item);
    }
    const own = (selector) => [...document.querySelectorAll(`main > section ${selector}[data-shot="${number}"]`)]
      .filter((node) => !node.closest("#table") && (row[TRACK] < 0 || Number(node.dataset.track) === row[TRACK]));
    const plots = own(".plots figure").map((node) => node.cloneNode(true));
    const pairs = own(".pairs figure").map((node) => node.cloneNode(true));
    const shown = made("div", undefined, {class: "pairs"});
    shown.append(...pairs);
    if (found[place].length) td.append(list);
    td.append(...plots);
    if (pairs.length) td.append(shown);
    if (!td.childNodes.length) td.append(made("p", `Frames ${row[START]} to ${row[STOP] - 1}. No finding; no picture or plot of it is in this report.`, {class: "muted"}));
    tr.append(td);
    return tr;
  }

  function toggle(place) {
    if (!state.open.delete(place)) state.open.add(place);
    show();
    document.querySelector(`tr[data-place="${place}"] .open`).focus({preventScroll: true});
  }

  function head() {
    document.querySelector("#table thead tr").append(...COLUMNS.map(([name, of, written], number) => {
      const cell = made("th", undefined, {scope: "col", role: "columnheader"});
      if (written) cell.className = "number";
      const button = made("button", name, {type: "button"});
      button.addEventListener("click", () => {
        state.down = state.by === number ? !state.down : Boolean(written) || name === "Findings";
        state.by = number;
        state.at = 0;
        select();
        show();
      });
      cell.append(button);
      return cell;
    }));
  }

  function jump() {
    const number = Number(/^#shot-(\d+)$/.exec(location.hash)?.[1]);
    if (!number) return;
    const of = (list) => list.filter((place) => rows[place][SHOT] === number - 1);
    if (!of(state.shown).length) {
      by("only").checked = false;
      by("what").value = by("find").value = "";
      select();
    }
    const places = of(state.shown);
    if (!places.length) return;
    const place = places.find((one) => found[one].length) ?? places[0];
    state.at = Math.floor(state.shown.indexOf(place) / A_PAGE);
    state.open.add(place);
    show();
    const row = document.querySelector(`tr[data-place="${place}"]`);
    row.classList.add("at");
    row.scrollIntoView({block: "start"});
    row.querySelector(".open").focus({preventScroll: true});
    point(number - 1);
  }

  // ---- the timeline ---------------------------------------------------------------------------------------------------------

  const timeline = by("timeline");
  let pointed = 0;

  function point(number) {
    pointed = Math.max(0, Math.min(number, shots.length - 1));
    const [shot, start, stop, what, why] = shots[pointed];
    const bad = (ofShot.get(shot) ?? []).map((one) => kinds[one[0]]);
    const text = `Shot ${shot + 1}, ${clock(start)}–${clock(stop)}: ${outcomes[what]}${why ? `, ${why}` : ""}${bad.length ? `. Findings: ${[...new Set(bad)].join(", ")}` : ""}`;
    by("shown").textContent = text;
    timeline.setAttribute("aria-valuenow", pointed + 1);
    timeline.setAttribute("aria-valuetext", text);
    timeline.querySelectorAll(".here").forEach((node) => node.remove());
    for (const svg of timeline.querySelectorAll("svg")) {
      const low = Number(svg.dataset.start), step = Number(svg.dataset.seconds);
      const a = Math.max(start, low), b = Math.min(stop, low + step);
      if (a >= b) continue;
      const here = document.createElementNS(svg.namespaceURI, "rect");
      for (const [key, value] of Object.entries({class: "here", x: (a - low) / step * 1000, y: 7, width: Math.max((b - a) / step * 1000, 3), height: 24})) here.setAttribute(key, value);
      svg.append(here);
    }
  }

  function shotAt(event) {
    const svg = event.target.closest(".strip")?.querySelector("svg");
    if (!svg) return -1;
    const box = svg.getBoundingClientRect();
    const time = Number(svg.dataset.start) + (event.clientX - box.left) / box.width * Number(svg.dataset.seconds);
    let low = 0, high = shots.length; // the first shot that ends after this time
    while (low < high) {
      const middle = (low + high) >> 1;
      if (shots[middle][2] > time) high = middle; else low = middle + 1;
    }
    return low < shots.length && event.clientX >= box.left ? low : -1;
  }

  const goTo = (number) => {
    const hash = `#shot-${shots[number][0] + 1}`;
    if (location.hash === hash) jump(); else location.hash = hash;
  };

  if (shots.length) {
    timeline.addEventListener("pointermove", (event) => {
      const number = shotAt(event);
      if (number >= 0 && number !== pointed) point(number);
    });
    timeline.addEventListener("click", (event) => {
      const number = shotAt(event);
      if (number >= 0) goTo(number);
    });
    timeline.addEventListener("keydown", (event) => {
      const moves = {ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10, Home: -Infinity, End: Infinity};
      if (event.key in moves) point(Math.max(0, Math.min(pointed + moves[event.key], shots.length - 1)));
      else if (event.key === "Enter" || event.key === " ") goTo(pointed);
      else return;
      event.preventDefault();
    });
  }

  head();
  select();
  show();
  for (const id of ["only", "what", "find"]) {
    by(id).addEventListener("input", () => {
      state.at = 0;
      select();
      show();
    });
  }
  by("back").addEventListener("click", () => { state.at -= 1; show(); by("table").scrollIntoView(); });
  by("next").addEventListener("click", () => { state.at += 1; show(); by("table").scrollIntoView(); });
  addEventListener("hashchange", jump);
  document.addEventListener("click", (event) => { // the same link twice changes no hash
    const link = event.target.closest?.('a[href^="#shot-"]');
    if (link && link.getAttribute("href") === location.hash) jump();
  });
  jump();
})();
