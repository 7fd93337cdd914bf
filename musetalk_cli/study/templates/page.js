"use strict";
(() => {
  const study = JSON.parse(document.getElementById("study").textContent);
  const QUESTIONS = [["VQ", "Visual quality"], ["IC", "Identity"], ["LSQ", "Lip-sync"]];
  const WATCHED = 0.9; // of a clip's length that was played, not skipped; its last moments may be missing from `played`
  const LAST = `study-${study.study}`;
  const by = (id) => document.getElementById(id);
  let state = null; // of the rater who began
  let order = [];
  const broken = new Set(); // clips that this browser cannot play

  // ---- who rates, and what was kept -----------------------------------------------------------------------------------------

  function kept(key) {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  }

  function keep() {
    try {
      localStorage.setItem(LAST, state.rater);
      localStorage.setItem(keyOf(state.rater), JSON.stringify(state));
      by("storage").hidden = true;
    } catch {
      by("storage").hidden = false;
    }
  }

  const keyOf = (rater) => `${LAST}:${rater.toLowerCase()}`;

  function orderOf(rater) {
    // FNV-1a: the same name has the same order on every machine
    let hash = 0x811c9dc5;
    for (const byte of new TextEncoder().encode(`${study.study} ${rater.toLowerCase()}`)) {
      hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
    }
    return hash % study.orders.length;
  }

  function begin(name) {
    const rater = name.normalize("NFC").trim().replace(/\s+/g, " ");
    if (!rater) return by("rater").focus();
    const found = kept(keyOf(rater));
    state = found ? JSON.parse(found) : {rater, started: new Date().toISOString(), at: 0, watched: [], ratings: {}};
    order = study.orders[orderOf(rater)];
    keep();
    show();
  }

  // ---- a screen -------------------------------------------------------------------------------------------------------------

  function show() {
    const ended = state.at >= order.length;
    by("start").hidden = true;
    by("rating").hidden = by("bar").hidden = ended;
    by("end").hidden = !ended;
    by("clips").replaceChildren();
    if (ended) return finish();
    const [original, clips] = order[state.at];
    const cards = clips.map((clip, place) => card(clip, clips.length > 1 ? `Clip ${"ABCDEFGHIJKLMNOPQRSTUVWXYZ"[place]}` : "Clip"));
    if (original >= 0) cards.unshift(card(original, "Original", false));
    by("clips").append(...cards);
    by("clips").className = cards.length > 1 ? "" : "alone";
    by("clips").style.setProperty("--columns", cards.length === 4 ? 2 : Math.min(cards.length, 3)); // as room allows
    by("heading").textContent = clips.length > 1 ? `Scene ${state.at + 1}: rate each clip` : `Clip ${state.at + 1}: rate it`;
    by("where").textContent = `${state.at + 1} of ${order.length}`;
    by("progress").max = order.length;
    by("progress").value = state.at;
    by("back").disabled = state.at === 0;
    by("next").textContent = state.at === order.length - 1 ? "Finish" : "Next";
    scrollTo(0, 0);
    by("heading").focus({preventScroll: true});
  }

  function card(clip, title, rated = true) {
    const made = by("card").content.cloneNode(true).firstElementChild;
    const name = study.clips[clip];
    const video = made.querySelector("video");
    made.dataset.clip = name;
    made.dataset.title = title;
    made.classList.toggle("original", !rated);
    made.querySelector("h2").textContent = title;
    video.setAttribute("aria-label", title);
    video.addEventListener("play", () => pauseOthers(video));
    video.addEventListener("ended", () => watched(made, video));
    video.addEventListener("error", () => cannotPlay(made));
    video.addEventListener("loadedmetadata", () => {
      if (video.videoWidth) video.style.aspectRatio = `${video.videoWidth} / ${video.videoHeight}`;
    });
    video.src = `clips/${name}.mp4`;
    if (rated) QUESTIONS.forEach(([question, words]) => made.querySelector(".scales").append(scale(made, question, words)));
    say(made);
    return made;
  }

  function scale(clip, question, words) {
    const {clip: name, title} = clip.dataset;
    const made = by("scale").content.cloneNode(true).firstElementChild;
    made.querySelector("legend").textContent = words;
    made.dataset.question = question;
    made.setAttribute("aria-label", `${words} of ${title}`);
    for (const input of made.querySelectorAll("input")) {
      input.name = `${name}-${question}`;
      input.checked = state.ratings[name]?.[question] === Number(input.value);
      input.addEventListener("change", () => rate(clip, question, Number(input.value)));
    }
    made.addEventListener("keydown", (event) => {
      const input = /^[1-5]$/.test(event.key) && made.querySelector(`input[value="${event.key}"]`);
      if (!input || event.ctrlKey || event.altKey || event.metaKey) return;
      input.focus();
      input.click();
    });
    return made;
  }

  function rate(made, question, value) {
    (state.ratings[made.dataset.clip] ??= {})[question] = value;
    keep();
    say(made);
  }

  // ---- playing --------------------------------------------------------------------------------------------------------------

  function pauseOthers(video) {
    for (const other of document.querySelectorAll("video")) if (other !== video) other.pause();
  }

  function watched(made, video) {
    let played = 0;
    for (let i = 0; i < video.played.length; i++) played += video.played.end(i) - video.played.start(i);
    if (played < WATCHED * video.duration) return say(made, "Parts were skipped. Please play all of it.");
    if (!state.watched.includes(made.dataset.clip)) state.watched.push(made.dataset.clip);
    keep();
    say(made);
  }

  function cannotPlay(made) {
    broken.add(made.dataset.clip);
    say(made, "This browser cannot play this clip. You can go on without it, or try another browser.");
  }

  function say(made, warning = "") {
    const line = made.querySelector(".state");
    const open = !study.mustWatch || state.watched.includes(made.dataset.clip);
    const original = made.classList.contains("original");
    made.querySelectorAll(".scale").forEach((scale) => (scale.disabled = !open));
    line.classList.toggle("told", Boolean(warning));
    line.textContent = warning || (original ? "For comparison. It is not rated." : open ? "Rate this clip:" : "Play it to the end to rate it.");
  }

  // ---- onwards --------------------------------------------------------------------------------------------------------------

  function missing() {
    for (const made of by("clips").children) {
      for (const scale of broken.has(made.dataset.clip) ? [] : made.querySelectorAll(".scale")) {
        if (!scale.querySelector(":checked")) return [made, scale];
      }
    }
    return null;
  }

  function next() {
    const lacking = missing();
    if (!lacking) return go(state.at + 1);
    const [made, scale] = lacking;
    const open = `${scale.querySelector("legend").textContent} is not rated yet.`;
    say(made, scale.disabled ? "This clip has not been played to its end yet." : open);
    (scale.disabled ? made.querySelector("video") : scale.querySelector("input")).focus();
  }

  function go(to) {
    state.at = to;
    keep();
    show();
  }

  // ---- the end --------------------------------------------------------------------------------------------------------------

  function result() {
    const ratings = order.flatMap(([, clips], screen) =>
      clips.map((clip, place) => ({clip: study.clips[clip], screen: screen + 1, place: place + 1, ...state.ratings[study.clips[clip]]})));
    const rated = ratings.filter((rating) => QUESTIONS.some(([question]) => question in rating));
    const complete = ratings.every((rating) => QUESTIONS.every(([question]) => question in rating));
    const [number, saved] = [orderOf(state.rater), new Date().toISOString()];
    return {study: study.study, format: study.format, rater: state.rater, order: number, started: state.started, saved, asked: ratings.length, complete, ratings: rated};
  }

  function finish() {
    const found = result();
    by("thanks").textContent = found.complete ? "Thank you. That was all." : "Thank you. Some clips are still open.";
    const whole = found.ratings.filter((rating) => QUESTIONS.every(([question]) => question in rating));
    by("count").textContent = `You rated ${whole.length} of ${found.asked} clips.`;
    by("text").value = asText(found);
    by("done").textContent = "";
    scrollTo(0, 0);
    by("thanks").focus({preventScroll: true});
  }

  const asText = (found) => `${JSON.stringify(found, null, 1)}\n`;

  function save() {
    const link = document.createElement("a");
    const who = state.rater.replace(/[^\p{L}\p{N}_-]+/gu, "-");
    link.href = URL.createObjectURL(new Blob([by("text").value], {type: "application/json"}));
    link.download = `ratings-${study.study.slice(0, 6)}-${who}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    by("done").textContent = `Saved as ${link.download}.`;
  }

  async function copy() {
    by("text").select();
    try {
      await navigator.clipboard.writeText(by("text").value);
    } catch {
      document.execCommand("copy");
    }
    by("done").textContent = "Copied. Paste it into a message.";
  }

  by("begin").addEventListener("submit", (event) => {
    event.preventDefault();
    begin(by("rater").value);
  });
  by("back").addEventListener("click", () => go(state.at - 1));
  by("next").addEventListener("click", next);
  by("stop").addEventListener("click", () => {
    by("rating").hidden = by("bar").hidden = true;
    by("clips").replaceChildren(); // what was playing stops
    by("end").hidden = false;
    finish();
  });
  by("again").addEventListener("click", () => go(Math.min(state.at, order.length - 1)));
  by("save").addEventListener("click", save);
  by("copy").addEventListener("click", copy);
  by("rater").value = decodeURIComponent(/^#rater=(.*)$/.exec(location.hash)?.[1] ?? "") || kept(LAST) || "";
})();
