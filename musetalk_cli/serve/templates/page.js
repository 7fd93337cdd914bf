"use strict";
(() => {
{% include "wipe.js" %}
  const by = (id) => document.getElementById(id);
  const AT_WORK = ["working", "stopping", "stopping at once"];
  const IN_STEP_S = 0.01; // two films that play are taken for in step below this
  const STILL_MS = 120; // of rest before frames are asked for
  const path = (...names) => "/" + names.map(encodeURIComponent).join("/");
  const state = {phase: "idle"};

  function made(name, text, more = {}) {
    const node = document.createElement(name);
    if (text !== undefined) node.textContent = text;
    for (const [key, value] of Object.entries(more)) node.setAttribute(key, value);
    return node;
  }

  // ---- asking the server ----------------------------------------------------------------------------------------------------

  async function ask(url, body) {
    const how = body === undefined ? {} : {method: "POST", body: JSON.stringify(body), headers: {"content-type": "application/json"}};
    let answer;
    try { answer = await fetch(url, how); } catch { by("gone").hidden = false; throw new Error("gone"); }
    const told = answer.headers.get("content-type") === "application/json" ? await answer.json() : {};
    if (answer.ok) return told;
    throw Object.assign(new Error("refused"), {problem: told.problem ?? {thing: "The page", fact: `was refused (${answer.status})`, cure: "open the URL that musetalk serve printed"}});
  }

  function tell(box, problem) {
    box.hidden = !problem;
    const [thing, fact, cure] = box.children;
    thing.textContent = problem?.thing ?? "";
    fact.textContent = problem?.fact ?? "";
    cure.textContent = problem?.cure ?? "";
  }

  const doing = (action) => async (event) => {
    event?.preventDefault();
    tell(by("problem"), null);
    try {
      await action(event);
    } catch (error) {
      if (error.problem) {
        tell(by("problem"), error.problem);
        by("problem").focus();
      } else if (error.message !== "gone") throw error;
    }
  };

  // ---- film and voice -------------------------------------------------------------------------------------------------------

  const size = (bytes) => bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : bytes >= 1e5 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e3).toFixed(1)} kB`;

  function choices(select, rows, kept = select.value) {
    select.replaceChildren(...rows.map(([value, text]) => made("option", text, {value})));
    if (rows.some(([value]) => value === kept)) select.value = kept;
  }

  async function loadFolder() {
    const found = await ask("/api/folder");
    state.folder = found;
    const results = new Set(found.results.map((one) => one.name));
    const films = [...found.films].sort((a, b) => results.has(a.name) - results.has(b.name));
    by("folder").textContent = found.folder;
    choices(by("film"), films.map((one) => [one.name, `${one.name} (${size(one.bytes)}${results.has(one.name) ? ", dubbed" : ""})`]));
    choices(by("voice"), found.voices.map((one) => [one.name, `${one.name} (${size(one.bytes)})`]));
    choices(by("result"), found.results.map((one) => [one.name, one.name]));
    const lacking = [found.films.length ? "" : "no film", found.voices.length ? "" : "no voice"].filter(Boolean).join(" and ");
    const unnamed = found.unnamed ? ` Files whose names are not in UTF-8 are not listed: ${found.unnamed}.` : "";
    by("nothing").hidden = !(lacking || unnamed);
    by("nothing").textContent = (lacking ? `There is ${lacking} in this folder: put it there, and load this page again.` : "") + unnamed;
    by("no-result").hidden = found.results.length > 0;
    by("result").closest(".fields").hidden = found.results.length === 0;
  }

  async function loadFilm() {
    const name = by("film").value;
    by("poster").hidden = !name;
    if (!name) return;
    by("poster").src = `${path("still", name)}?at=0.5&width=640`;
    by("poster").alt = `A frame of ${name}`;
    const found = await ask(`/api/film?name=${encodeURIComponent(name)}`);
    if (by("film").value !== name) return;
    state.film = found;
    const other = found.holder ? ` At work on it now, elsewhere: ${found.holder}.` : "";
    by("kept").textContent = (found.results_kept ? `Of earlier work on it ${found.results_kept} results are kept (${found.size_mb} MB): a dub goes on from there.` : "") + other;
    const left = found.unfinished;
    by("unfinished").hidden = !left || AT_WORK.includes(state.phase);
    if (left) by("unfinished").firstElementChild.textContent = `A dub of ${left.film} with ${left.cast || left.voice} was not finished.`;
    showSheets(found.sheets);
    showCast(found.cast, found.cast_problem);
  }

  function loadVoice() {
    const name = by("voice").value;
    by("listen").hidden = !name;
    if (name) by("listen").src = path("file", name);
  }

  // ---- shots, faces and the cast --------------------------------------------------------------------------------------------

  function showSheets(names) {
    by("sheets").replaceChildren(...names.map((name, number) => {
      const link = made("a", undefined, {href: path("file", name), target: "_blank", rel: "noopener"});
      link.append(made("img", undefined, {src: `${path("file", name)}?${Date.now()}`, alt: `Contact sheet ${number + 1}: a frame of each shot, faces marked`}));
      return link;
    }));
  }

  function showShots(shots) {
    by("shots").hidden = !shots;
    if (!shots) return;
    by("shots").firstElementChild.textContent = `${shots.length} shot${shots.length === 1 ? "" : "s"}, ${shots.filter((one) => one.frames_dubbed).length} with a face to dub`;
    by("shots").querySelector("tbody").replaceChildren(...shots.map((one) => {
      const row = made("tr");
      const persons = [...new Set(one.persons.map((who) => who.person))].join(", ");
      row.append(...[one.shot + 1, clock(one.start), one.frames, one.frames_with_face, persons, one.verdict].map((text) => made("td", String(text))));
      return row;
    }));
  }

  function showCast(cast, problem) {
    state.cast = cast;
    by("anew").hidden = !cast && !problem;
    by("cast-problem").hidden = !problem;
    by("cast-problem").textContent = problem;
    const choice = document.querySelector('input[value="cast"]');
    choice.disabled = !cast;
    if (!cast && choice.checked) document.querySelector('input[value="largest"]').checked = true;
    if (cast?.persons.some((who) => who.voice)) choice.checked = true;
    by("ranges").textContent = cast?.ranges ? `Ranges that were written by hand stay: ${cast.ranges}.` : "";
    by("persons").replaceChildren(...(cast?.persons ?? []).map(personBox));
    showWho();
  }

  function personBox(who, number) {
    const box = made("div", undefined, {class: "person"});
    const letters = who.faces.join(", ") || who.name;
    box.append(who.still ? made("img", undefined, {src: path("face", state.film.film, who.still), alt: `Person ${letters}`}) : made("span", letters));
    const fields = made("div", undefined, {class: "fields"});
    const field = (name, input, note = "") => {
      const label = made("label", name);
      input.id = `${name.toLowerCase()}-${number}`;
      input.dataset.of = name.toLowerCase();
      label.append(input, ...(note ? [made("small", note)] : []));
      return label;
    };
    const name = made("input", undefined, {type: "text", autocomplete: "off", required: ""});
    name.value = who.name;
    const voice = made("select");
    const names = [...new Set([...(state.folder?.voices ?? []).map((one) => one.name), ...(who.voice ? [who.voice] : [])])];
    choices(voice, [["", "none: stays as filmed"], ...names.map((one) => [one, one])], who.voice);
    const consent = made("input", undefined, {type: "text", autocomplete: "off", placeholder: "release form 12, 2026-03-01"});
    consent.value = who.consent;
    const agreed = field("Consent", consent, "where it is written: told in the result's manifest");
    fields.append(field("Name", name, `on the sheet: ${letters}`), field("Voice", voice), agreed);
    box.append(fields, made("p", who.notes.join(" · "), {class: "notes muted small"}));
    return box;
  }

  function showAble() {
    const able = by("film").value && !AT_WORK.includes(state.phase);
    by("inspect").disabled = !able;
    by("prove").disabled = !state.result?.film || AT_WORK.includes(state.phase);
    by("start").disabled = !(able && (who() === "cast" || by("voice").value));
  }

  const who = () => document.querySelector('input[name="who"]:checked').value;

  function showWho() {
    by("cast").hidden = who() !== "cast";
    by("voice").disabled = who() === "cast";
    showAble();
  }

  const changes = () => [...document.querySelectorAll(".person")].map((box) =>
    Object.fromEntries([...box.querySelectorAll("[data-of]")].map((input) => [input.dataset.of, input.value.trim()])));

  async function saveCast() {
    const film = by("film").value;
    const cast = await ask("/api/cast", {film, version: state.cast.version, persons: changes()});
    if (by("film").value !== film) return;
    showCast(cast, "");
    document.querySelector('input[value="cast"]').checked = true;
    showWho();
    by("saved").textContent = `Saved in ${cast.file}.`;
  }

  // ---- the work -------------------------------------------------------------------------------------------------------------

  function clock(seconds) {
    const hundredths = Math.floor(Math.max(seconds, 0) * 100 + 1e-6);
    const minutes = Math.floor(hundredths / 6000);
    const rest = ((hundredths % 6000) / 100).toFixed(2).padStart(5, "0");
    return minutes < 60 ? `${minutes}:${rest}` : `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${rest}`;
  }

  const whole = (seconds) => clock(Math.round(seconds)).slice(0, -3);

  function line(now) {
    const parts = [];
    if (AT_WORK.includes(now.phase)) {
      parts.push(now.frames ? `${Math.floor(now.share * 100)} %` : "starting");
      if (now.frames) parts.push(`${now.frames_done} of ${now.frames} frames`);
      if (now.stage) parts.push(now.stage + (now.shot ? ` shot ${now.shot}${now.shots ? ` of ${now.shots}` : ""}` : ""));
      if (now.fps) parts.push(`${now.fps.toFixed(1)} fps`);
      if (now.seconds_left !== null) parts.push(`${whole(now.seconds_left)} left`);
      if (now.reused) parts.push(`${Math.round(now.reused * 100)} % from an earlier run`);
    }
    return [...parts, AT_WORK.includes(now.phase) ? `${whole(now.seconds)} so far` : `after ${whole(now.seconds)}`].join(" · ");
  }

  const PHASES = {working: "", stopping: "Stopping after this step: ", "stopping at once": "Stopping: ", done: "Done: ", stopped: "Stopped: ", failed: "Failed: "};

  async function showWork(now) {
    if (now.version < state.version) return; // an answer that a later event has overtaken
    const before = state.phase;
    const news = state.version !== undefined && before !== now.phase;
    Object.assign(state, {phase: now.phase, order: now.order, found: now.found, version: now.version});
    by("work").hidden = now.phase === "idle";
    showAble();
    if (now.phase === "idle") return;
    const working = AT_WORK.includes(now.phase);
    const dub = now.order.kind === "dub";
    const voice = now.order.cast || now.order.voice;
    by("h-work").textContent = PHASES[now.phase] + ({dub: `${now.order.film} with ${voice}`, inspect: `shots and faces of ${now.order.film}`, verify: `what ${now.order.output} keeps of ${now.order.film}`})[now.order.kind];
    by("bar").hidden = !working && now.phase !== "done";
    if (now.frames || now.phase === "done") by("bar").value = now.share; else by("bar").removeAttribute("value");
    by("line").textContent = line(now);
    by("stop").hidden = !working;
    by("stop").disabled = now.phase === "stopping at once";
    by("stop").textContent = now.phase === "working" ? "Stop after this step" : "Stop at once";
    by("go-on").hidden = !["stopped", "failed"].includes(now.phase);
    by("go-on").textContent = now.phase === "stopped" ? "Go on" : "Try again";
    by("compare").hidden = !(now.phase === "done" && dub);
    tell(by("work-problem"), now.phase === "failed" ? now.problem : null);
    by("warnings").hidden = !now.warnings.length;
    by("warnings").replaceChildren(...now.warnings.map((text) => made("li", text.replace(/^warning: /, ""))));
    by("log").hidden = !now.told.length;
    by("told").replaceChildren(...now.told.map((text) => made("li", text)));
    document.title = working && now.frames ? `${Math.floor(now.share * 100)} % ${now.order.film}` : "musetalk";
    if (now.phase === "done" && now.order.kind === "inspect" && now.order.film === by("film").value) showShots(now.found.shots);
    if (now.phase === "done") showProof();
    if (news && !working) await over(now);
  }

  // Of the result that is shown, where it was the last that was asked for.
  function showProof() {
    const known = state.order?.kind === "verify" && state.found && state.order.output === state.result?.result;
    by("proof").hidden = !known;
    if (known) by("proof").replaceChildren(...state.found.lines.map((text) => made("li", text, text.startsWith("FAIL") ? {class: "broken"} : {})));
  }

  async function over(now) {
    if (now.order.kind === "verify") return;
    await loadFolder();
    await loadFilm();
    if (now.phase === "done" && now.order.kind === "dub") {
      const name = now.found.outputs[0].split("/").at(-1);
      if ([...by("result").options].some((one) => one.value === name)) by("result").value = name;
      await loadResult();
    }
    if (now.phase === "done" && now.order.kind === "inspect") by("inspected").textContent = "Found. The cast map is beside the film.";
  }

  const asked = () => ({
    film: by("film").value, voice: who() === "cast" ? "" : by("voice").value, cast: who() === "cast", face: who() === "cast" ? "" : who(),
    language: by("language").value.trim(), model: by("model").value, length: by("length").value, output: by("output").value.trim(),
    overwrite: by("overwrite").checked, keep: by("keep").checked,
  });

  const again = ({kind, folder, cast, ...rest}) => ({
    dub: () => ask("/api/dub", {...rest, cast: cast !== ""}),
    inspect: () => ask("/api/inspect", {film: rest.film, face: rest.face, overwrite: rest.overwrite}),
    verify: () => ask("/api/verify", {film: rest.film, result: rest.output}),
  })[kind]();

  async function begin() {
    if (who() === "cast") await saveCast();
    showWork(await ask("/api/dub", asked()));
    by("h-work").scrollIntoView({block: "nearest"});
  }

  // ---- before and after -----------------------------------------------------------------------------------------------------

  const films = {was: by("was-video"), now: by("now-video")};
  const stills = {was: by("was-still"), now: by("now-still")};
  const shownNames = () => ({was: state.result?.film, now: state.result?.result});
  let resting = 0;

  async function loadResult() {
    const name = by("result").value;
    by("shown").hidden = !name;
    if (!name) return;
    const found = await ask(`/api/result?name=${encodeURIComponent(name)}`);
    if (by("result").value !== name) return;
    pause();
    state.result = found;
    state.playable = {was: null, now: null};
    const tail = found.findings ? `, ${found.findings} finding${found.findings === 1 ? "" : "s"}` : "";
    by("score").textContent = `Score ${found.score.toFixed(1)} of 100${tail}.${found.film ? "" : " Its film is not in this folder, so that there is nothing to wipe to."}`;
    by("get-result").href = path("file", found.result);
    by("get-report").href = path("file", found.report);
    by("open-report").href = path("report", found.result);
    by("report").open = false;
    by("frame").removeAttribute("src");
    for (const [which, file] of Object.entries(shownNames())) {
      films[which].hidden = !file;
      stills[which].removeAttribute("src");
      if (file) films[which].src = path("file", file); else films[which].removeAttribute("src");
    }
    const first = found.shots.length ? found.shots[0].start_s : 0;
    const last = found.shots.length ? found.shots.at(-1).stop_s : found.seconds;
    Object.assign(by("at"), {min: first, max: Math.max(last - 1 / found.fps, first), step: 1 / found.fps});
    choices(by("shot"), found.shots.map((one, number) => [number, `${number + 1}: ${whole(one.start_s)}, ${one.what}`]), "");
    const best = found.shots.findIndex((one) => one.what !== "passed through");
    seekShot(Math.max(best, 0));
    showPlayable();
    showProof();
    showAble();
  }

  function seekShot(number) {
    const one = state.result?.shots[number];
    if (!one) return seek(0);
    by("shot").value = number;
    seek((one.start_s + one.stop_s) / 2);
  }

  function seek(second) {
    const fps = state.result.fps;
    const at = Math.min(Math.max(Math.round(second * fps) / fps, Number(by("at").min)), Number(by("at").max));
    state.at = at;
    by("at").value = at;
    by("clock").textContent = clock(at);
    for (const film of Object.values(films)) if (film.readyState) film.currentTime = at + 0.001;
    clearTimeout(resting);
    resting = setTimeout(showStills, STILL_MS);
  }

  // A paused picture is the very frame: both come from the server, which takes them at the same timestamp.
  async function showStills() {
    const at = state.at;
    const width = Math.min(Math.round(by("stage").clientWidth * devicePixelRatio), 1920);
    const pairs = Object.entries(shownNames()).filter(([, file]) => file);
    await Promise.all(pairs.map(async ([which, file]) => {
      const picture = new Image();
      picture.src = `${path("still", file)}?at=${at.toFixed(6)}&width=${width}`;
      try { await picture.decode(); } catch { return; }
      if (state.at !== at || playing() || shownNames()[which] !== file) return;
      stills[which].src = picture.src;
      stills[which].hidden = false;
      by("stage").style.aspectRatio = `${picture.naturalWidth} / ${picture.naturalHeight}`;
    }));
    by("stage").dataset.at = at.toFixed(3);
  }

  const playing = () => !films.now.paused && !films.now.ended;

  const heard = () => films[by("sound").value].hidden ? films.now : films[by("sound").value];

  function mute() {
    for (const film of Object.values(films)) film.muted = film !== heard();
  }

  async function play() {
    for (const picture of Object.values(stills)) picture.hidden = true;
    films.was.currentTime = films.now.currentTime = state.at;
    mute();
    by("play").textContent = "❚❚";
    by("play").setAttribute("aria-label", "Pause");
    await Promise.all(Object.values(films).filter((film) => !film.hidden).map((film) => film.play()));
    requestAnimationFrame(keepStep);
  }

  function pause() {
    for (const film of Object.values(films)) film.pause();
    by("play").textContent = "▶";
    by("play").setAttribute("aria-label", "Play");
  }

  // The film that is heard leads; the other one runs a little faster or slower until it is in step.
  function keepStep() {
    if (!playing()) return;
    const lead = heard();
    const other = lead === films.now ? films.was : films.now;
    const off = other.currentTime - lead.currentTime;
    lead.playbackRate = 1;
    if (!other.hidden && !other.seeking) {
      if (Math.abs(off) > 0.5) other.currentTime = lead.currentTime;
      other.playbackRate = Math.abs(off) > IN_STEP_S ? Math.min(Math.max(1 - 2 * off, 0.8), 1.25) : 1;
    }
    state.at = lead.currentTime;
    by("at").value = state.at;
    by("clock").textContent = clock(state.at);
    requestAnimationFrame(keepStep);
  }

  function stopPlaying() {
    pause();
    seek(heard().currentTime);
  }

  function showPlayable() {
    const wanted = Object.entries(shownNames()).filter(([, file]) => file).map(([which]) => state.playable[which]);
    by("play").disabled = wanted.some((able) => !able);
    by("unplayable").hidden = !wanted.includes(false);
  }

  for (const [which, film] of Object.entries(films)) {
    const known = (able) => () => { if (film.src) { state.playable[which] = able; showPlayable(); } };
    film.addEventListener("loadeddata", () => { known(film.videoWidth > 0)(); film.currentTime = state.at + 0.001; });
    film.addEventListener("error", known(false));
  }

  // ---- what the person does -------------------------------------------------------------------------------------------------

  by("film").addEventListener("change", doing(() => { showShots(null); by("saved").textContent = ""; return loadFilm(); }));
  by("voice").addEventListener("change", loadVoice);
  by("poster").addEventListener("error", () => { by("poster").hidden = true; });
  by("inspect").addEventListener("click", doing(async () => {
    const anew = !by("anew").hidden && by("redraft").checked;
    by("redraft").checked = false;
    showWork(await ask("/api/inspect", {film: by("film").value, face: "all", overwrite: anew}));
  }));
  for (const input of document.querySelectorAll('input[name="who"]')) input.addEventListener("change", showWho);
  by("persons").addEventListener("input", () => { by("saved").textContent = "Not saved yet."; });
  by("save").addEventListener("click", doing(saveCast));
  by("dub").addEventListener("submit", doing(begin));
  by("stop").addEventListener("click", doing(async () => showWork(await ask("/api/stop", {}))));
  by("go-on").addEventListener("click", doing(async () => showWork(await again(state.order))));
  by("resume").addEventListener("click", doing(async () => { const order = state.film.unfinished; by("unfinished").hidden = true; showWork(await again(order)); }));
  by("compare").addEventListener("click", () => { by("h-result").scrollIntoView(); by("h-result").focus({preventScroll: true}); });
  by("result").addEventListener("change", doing(loadResult));
  by("prove").addEventListener("click", doing(async () => showWork(await ask("/api/verify", {film: state.result.film, result: state.result.result}))));
  by("shot").addEventListener("change", () => { pause(); seekShot(Number(by("shot").value)); });
  by("at").addEventListener("input", () => { pause(); seek(Number(by("at").value)); });
  by("before").addEventListener("click", () => { pause(); seek(state.at - 1 / state.result.fps); });
  by("after").addEventListener("click", () => { pause(); seek(state.at + 1 / state.result.fps); });
  by("play").addEventListener("click", () => { if (playing()) stopPlaying(); else play(); });
  by("sound").addEventListener("change", mute);
  films.now.addEventListener("ended", stopPlaying);
  by("report").addEventListener("toggle", () => { if (by("report").open && !by("frame").src) by("frame").src = path("report", state.result.result); });

  const load = doing(async () => {
    await loadFolder();
    loadVoice();
    await Promise.all([loadFilm(), loadResult()]);
  });
  load().then(() => {
    const events = new EventSource("/api/events");
    events.onmessage = (event) => showWork(JSON.parse(event.data));
    events.onopen = () => { by("gone").hidden = true; };
    events.onerror = () => { by("gone").hidden = false; };
    document.body.dataset.ready = "yes";
  });
})();
