/** The page: a picture, a hole if the model fills holes, a run, its results. Everything that a person sees is one of five views. */

import { Editor, Mask, noise } from "./editor.js";
import { aligns, expect, FaceLayer, told } from "./faces.js";
import { explain, hush, notify, say } from "./notices.js";
import * as service from "./service.js";
import * as settings from "./settings.js";
import * as sources from "./sources.js";
import * as words from "./words.js";

const PREVIEWS = 30;
const MOST_RUNS = 24;

const $ = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const dark = matchMedia("(prefers-color-scheme: dark)");

let about = null; // what the service is
let picture = null; // with its `faces`, once the service has found them, and the `align` that it is told
let run = null; // the one in progress
let shown = null; // the run whose results are on the stage
let chosen = 0; // which of its completions
const runs = []; // the newest first

// -------------------------------------------------------------------------------------------------------- the views

function setView(view) {
  const held = document.activeElement;
  $("main").dataset.view = view;
  document.body.dataset.view = view;
  for (const part of document.querySelectorAll("[data-in]")) part.inert = !part.dataset.in.split(" ").includes(view);
  $("settings").inert = view === "running";
  $("hole").tabIndex = view === "painting" ? 0 : -1;
  for (const button of document.querySelectorAll("#history button")) button.disabled = view === "running";
  describe();
  if (held !== document.body && held?.closest("[inert]")) {
    const next = { empty: "choose", painting: stage(), correcting: "eye", running: "cancel", done: "fill" }[view];
    $(next).focus({ preventScroll: true });
  }
}

const view = () => $("main").dataset.view;

/** Where work goes on while a picture is prepared. */
const stage = () => (words.paints() ? "hole" : "fill");

// ------------------------------------------------------------------------------------------------------ the picture

const stem = (name) => name.replace(/\.[^.]*$/, "") || "picture";

/** Opens a file. */
async function take(blob, name) {
  try {
    if (!about) throw new service.Unreachable();
    const fresh = await sources.opened(blob, stem(name), about.limits);
    show(fresh);
    if (fresh.note) notify(fresh.note, { kind: "note" });
    else hush();
  } catch (error) {
    explain(error, error instanceof service.Unreachable ? () => connect().then(() => take(blob, name)) : null);
  }
}

/** Puts a picture on the stage, with a hole to paint. */
function show(fresh, mask = null) {
  if (view() === "empty") scrollTo(0, 0); // what was chosen may lie far down the page
  shown = null;
  for (const button of document.querySelectorAll("#history button")) button.removeAttribute("aria-current");
  stand(fresh, mask ?? new Mask(fresh.width, fresh.height));
  $("after").hidden = true;
  setView("painting");
  changed();
}

/** Makes a picture and its hole the current ones. */
function stand(fresh, mask) {
  picture = fresh;
  picture.align ??= "auto";
  $("frame").style.setProperty("--width", picture.width);
  $("frame").style.setProperty("--height", picture.height);
  $("before").src = picture.image.src;
  editor.open(mask);
  faces.open(picture);
  if (!picture.faces && words.paints()) look(picture);
}

async function takeSample(file) {
  try {
    const answer = await fetch(new URL(`page/samples/${file}`, document.baseURI));
    await take(await answer.blob(), "face.jpg");
  } catch {
    explain(new service.Unreachable(), () => takeSample(file));
  }
}

let stopCamera = null;

async function openCamera() {
  try {
    stopCamera = await sources.startCamera($("video"));
    $("camera-dialog").showModal();
  } catch {
    notify("The camera cannot be used: it is missing, in use, or not allowed.");
  }
}

function closeCamera() {
  stopCamera?.();
  stopCamera = null;
  $("camera-dialog").close();
}

// -------------------------------------------------------------------------------------------------------- the faces

let looking = new AbortController();

/** Asks for a picture's faces while a person goes on; unanswered, the service still looks for them when it fills. */
async function look(fresh) {
  looking.abort();
  looking = new AbortController();
  try {
    fresh.faces = await service.faces(fresh.blob, looking.signal);
  } catch {
    return;
  }
  if (fresh !== picture) return;
  if (view() === "correcting" && picture.align === "auto") faces.correct(editor.mask.middle);
  else faces.refresh();
  describe();
  if (view() === "painting") say(words.face(picture)[0]);
}

let former = "auto"; // what `align` was before it was corrected

function startCorrecting() {
  former = picture.align;
  faces.correct(editor.mask.middle);
  setView("correcting");
  $("eye").focus({ preventScroll: true });
}

function stopCorrecting() {
  faces.open(picture);
  setView("painting");
  $("face").focus({ preventScroll: true });
}

/** Tells the service something else about the face. */
function align(how) {
  picture.align = how;
  stopCorrecting();
}

const focusStage = () => $(stage()).focus({ preventScroll: true });

// --------------------------------------------------------------------------------------------------------- the hole

const editor = new Editor($("hole"), $("ring"));
const faces = new FaceLayer($("outlines"), $("eyes"));

function changed() {
  const { mask } = editor;
  $("undo").disabled = !mask.undoable;
  $("redo").disabled = !mask.redoable;
  for (const id of ["clear", "export"]) $(id).disabled = mask.area === 0;
  if (document.activeElement.disabled) focusStage(); // a disabled button hears no keys
  describe();
}

/** Says what to do next, and lets the button be pressed when there is something to do. */
function describe() {
  const part = editor.mask?.area ?? 0;
  const correcting = view() === "correcting";
  $("fill").disabled = correcting || !words.canStart(part);
  $("fill").textContent = words.goes(part, view() === "done");
  if (picture === null) return;
  $("hint").textContent = correcting ? words.HANDLES : words.hint(part, picture);
  [$("face-text").textContent, $("face-act").textContent] = words.face(picture);
  $("face").hidden = !words.paints() || !aligns();
  $("face-auto").disabled = picture.align === "auto";
  $("face-off").disabled = picture.align === "off";
}

/** Takes a mask of a file; the service says what is the hole in it, or a person does where the file does not. */
async function importMask(file, mode = null) {
  const { mask } = editor;
  try {
    const image = await sources.decoded(await service.mask(await sources.readable(file), mode));
    if (editor.mask === mask) editor.change(() => mask.load(image));
    URL.revokeObjectURL(image.src);
  } catch (error) {
    if (error.code !== "ambiguous_mask") return explain(error, () => importMask(file, mode));
    for (const button of document.querySelectorAll("#mask-dialog [value]")) {
      button.onclick = () => importMask(file, button.value);
    }
    const [seen] = error.message.split("; say ");
    $("mask-seen").textContent = `${seen[0].toUpperCase()}${seen.slice(1)}.`;
    $("mask-dialog").showModal();
  }
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function showSize() {
  $("size").value = editor.size;
  $("size").setAttribute("aria-valuetext", `${Math.round(editor.size / 10.24)} % of the picture`);
  $("size").style.setProperty("--part", (editor.size - 24) / (320 - 24));
}

// ---------------------------------------------------------------------------------------------------------- the run

const clock = (seconds) => (seconds < 1 ? "almost there" : `about ${Math.ceil(seconds)} s left`);

function progress(text, part = null, left = "") {
  $("progress-text").textContent = text;
  $("eta").textContent = left;
  if (part === null) $("progress").removeAttribute("value");
  else $("progress").value = part;
}

/** Thumbnails of the completions, which the previews fill and results replace. */
function tiles(seeds) {
  $("completions").replaceChildren(
    ...seeds.map((seed, k) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(Object.assign(document.createElement("img"), { alt: "", src: picture.image.src }));
      button.setAttribute("aria-label", `Completion ${k + 1}, seed ${seed}`);
      button.title = `Seed ${seed}`;
      button.addEventListener("click", () => choose(k));
      return button;
    }),
  );
  $("completions").hidden = seeds.length < 2;
}

function choose(k) {
  chosen = k;
  for (const [i, button] of [...$("completions").children].entries()) {
    button.setAttribute("aria-pressed", String(i === k));
  }
  const source = shown ? shown.results[k].url : run?.previews[k];
  if (source) {
    $("after").src = source;
    $("after").hidden = false;
  }
  if (shown) {
    const { settings: s, results, seconds, version, face } = shown;
    $("result-text").textContent =
      `Seed ${results[k].seed} · ${settings.nameOf(s.sampler)}, ${s.steps} steps` +
      (seconds ? ` · ${seconds.toFixed(1)} s` : "") +
      (face === "none" ? " · no face found there" : "");
    $("result-text").title = `Model ${version}`;
  }
}

function onStep({ step, steps: most, previews }, mine) {
  mine.started ??= performance.now();
  const each = (performance.now() - mine.started) / Math.max(1, step - 1);
  progress(`Step ${step} of ${most}`, step / most, step > 1 ? clock(((most - step) * each) / 1000) : "");
  if (!previews?.length) return;
  clearInterval(mine.shimmer);
  mine.previews = previews;
  for (const [k, source] of previews.entries()) $("completions").children[k].firstChild.src = source;
  $("after").src = previews[chosen];
  $("after").hidden = false;
}

/** Waits, but no longer than until a person cancels. */
const unlessAborted = (promise, signal) =>
  new Promise((done, fail) => {
    signal.addEventListener("abort", () => fail(new DOMException("", "AbortError")));
    promise.then(done, fail);
  });

/** Fills the hole, or makes the whole picture anew; with another seed if `anew`. */
async function fill(anew) {
  hush();
  if (anew) settings.redraw();
  const wanted = { ...settings.read(picture), align: told(picture.align) };
  const masked = words.isHole(editor.mask.area);
  const control = new AbortController();
  const mine = { picture, align: picture.align, mask: editor.mask, settings: wanted, control, id: null, previews: [] };
  run = mine;
  shown = null;
  chosen = 0;
  $("after").hidden = true;
  tiles(Array.from({ length: wanted.num_samples }, (_, k) => wanted.seed + k));
  choose(0);
  progress("Sending");
  setView("running");
  $("frame").scrollIntoView({ block: "nearest", behavior: calm.matches ? "instant" : "smooth" });
  say($("running-title").textContent);
  mine.shimmer = setInterval(() => calm.matches || !masked || editor.refresh(true), 120);
  try {
    const mask = masked ? await mine.mask.blob(picture.width, picture.height) : null;
    mine.maskBlob = mask;
    const previews = Math.min(PREVIEWS, about.limits.previews);
    const submitted = service.submit(mine.picture.blob, mask, wanted, previews);
    // Never broken off: without its id a job could not be cancelled.
    submitted.then(({ id }) => control.signal.aborted && service.cancel(id)).catch(() => {});
    const job = await unlessAborted(submitted, control.signal);
    mine.id = job.id;
    for await (const { name, data } of service.events(job.id, control.signal)) {
      if (name === "queued") progress(data.position > 0 ? `Waiting, ${data.position} before you` : "Starting");
      else if (name === "step") onStep(data, mine);
      else if (name === "failed") throw new Error(data.error?.message ?? "The service could not do this.");
      else if (name === "canceled") throw new DOMException("", "AbortError");
      else if (name === "completed") await finish(mine, data);
    }
  } catch (error) {
    if (view() === "running") {
      setView("painting");
      changed();
    }
    if (error.name === "AbortError") {
      if (mine.id !== null) service.cancel(mine.id).catch(() => {});
      say("Cancelled.");
    } else {
      explain(error, () => fill(false)); // the same seed: it has not been seen yet
    }
  } finally {
    clearInterval(mine.shimmer);
    if (run === mine) run = null;
  }
}

async function finish(mine, job) {
  progress("Fetching", 1);
  const blobs = await Promise.all(job.images.map((_, k) => service.result(mine.id, k, mine.control.signal)));
  const results = blobs.map((blob, k) => ({ blob, seed: job.images[k].seed, url: URL.createObjectURL(blob) }));
  const kept = { ...mine, results, seconds: job.seconds, version: job.model_version, face: job.face };
  runs.unshift(kept);
  for (const old of runs.splice(MOST_RUNS)) for (const { url } of old.results) URL.revokeObjectURL(url);
  listRuns();
  const best = chosen;
  if (job.model_version !== about.version) {
    about = { ...about, version: job.model_version };
    showModel();
  }
  present(kept);
  choose(best);
  say(`Done. ${results.length === 1 ? "One completion" : `${results.length} completions`} to look at.`);
}

/** Shows the results of a run, and makes its picture, hole and settings the current ones. */
function present(kept) {
  shown = kept;
  kept.picture.align = kept.align;
  stand(kept.picture, kept.mask);
  settings.write(kept.settings);
  tiles(kept.results.map(({ seed }) => seed));
  for (const [k, { url }] of kept.results.entries()) $("completions").children[k].firstChild.src = url;
  $("compare").value = 10;
  compare();
  setView("done");
  choose(0);
  changed();
  for (const button of document.querySelectorAll("#history button")) {
    button.setAttribute("aria-current", String(runs[button.dataset.run] === kept));
  }
}

function compare() {
  $("frame").style.setProperty("--split", `${$("compare").value}%`);
  $("compare").setAttribute("aria-valuetext", `${$("compare").value} % before`);
}

function listRuns() {
  $("history-box").hidden = runs.length === 0;
  $("history").replaceChildren(
    ...runs.map((kept, i) => {
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.run = i;
      const count = kept.results.length;
      button.setAttribute("aria-label", `Run ${runs.length - i}: seed ${kept.settings.seed}, ${count} completions`);
      button.append(Object.assign(document.createElement("img"), { alt: "", src: kept.results[0].url }));
      if (count > 1) button.append(Object.assign(document.createElement("span"), { textContent: count }));
      button.addEventListener("click", () => {
        hush();
        present(kept);
      });
      item.append(button);
      return item;
    }),
  );
}

const resultName = () => `${picture.name}-seed${shown.results[chosen].seed}.png`;

function showCurl() {
  // One completion alone is what a command line asks for most: the one on the stage.
  const asked = { ...shown.settings, num_samples: 1, seed: shown.results[chosen].seed };
  $("curl-text").textContent = service.curl(`picture.${picture.ending}`, shown.maskBlob !== null, asked);
  $("save-mask").hidden = shown.maskBlob === null;
  $("curl-copy").textContent = "Copy";
  $("curl-dialog").showModal();
}

async function copyCurl() {
  try {
    await navigator.clipboard.writeText($("curl-text").textContent);
    $("curl-copy").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren($("curl-text")); // not allowed: the person presses Ctrl+C
    $("curl-copy").textContent = "Selected: press Ctrl+C";
  }
  say("The command is copied.");
}

// ----------------------------------------------------------------------------------------------------- what is wired

const on = (id, event, action) => $(id).addEventListener(event, action);
const click = (id, action) => on(id, "click", action);

click("choose", () => $("file").click());
function startAnew() {
  run?.control.abort();
  hush();
  setView("empty");
  $("choose").focus({ preventScroll: true });
}
click("new", startAnew);
click("brand", (event) => {
  event.preventDefault(); // a load of the page would lose the history
  startAnew();
});
on("file", "change", ({ target }) => {
  if (target.files[0]) take(target.files[0], target.files[0].name);
  target.value = "";
});
for (const sample of document.querySelectorAll(".sample")) {
  sample.addEventListener("click", () => takeSample(sample.dataset.sample));
}
$("camera").hidden = !sources.hasCamera();
click("camera", openCamera);
click("camera-close", closeCamera);
on("camera-dialog", "close", () => stopCamera && closeCamera());
click("shoot", async () => {
  const canvas = sources.shot($("video"));
  closeCamera();
  show(await sources.fromCanvas(canvas, "camera", about.limits));
});

document.addEventListener("paste", (event) => {
  const file = sources.pictureIn(event.clipboardData);
  if (file && view() !== "running") take(file, file.name);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").hidden = view() === "running" || !event.dataTransfer.types.includes("Files");
});
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) $("drop").hidden = true;
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").hidden = true;
  const file = sources.pictureIn(event.dataTransfer);
  if (view() === "running") return;
  if (file) take(file, file.name);
  else explain(new Error("That is not a picture."), null);
});

for (const tool of document.querySelectorAll("[name=tool]")) {
  tool.addEventListener("change", () => (editor.tool = tool.value));
}
on("size", "input", () => {
  editor.size = $("size").valueAsNumber;
  showSize();
});
editor.addEventListener("change", changed);
editor.addEventListener("size", showSize);
editor.addEventListener("tool", () => (document.querySelector(`[name=tool][value=${editor.tool}]`).checked = true));
click("undo", () => editor.change((mask) => mask.undo()));
click("redo", () => editor.change((mask) => mask.redo()));
click("invert", () => editor.change((mask) => mask.invert()));
click("clear", () => editor.change((mask) => mask.clear()));
click("import", () => $("mask-file").click());
on("mask-file", "change", ({ target }) => {
  if (target.files[0]) importMask(target.files[0]);
  target.value = "";
});
click("export", async () => save(await editor.mask.blob(picture.width, picture.height), `${picture.name}-mask.png`));
on("hole", "keydown", (event) => view() === "painting" && editor.press(event) && event.preventDefault());
document.addEventListener("keydown", (event) => {
  if (view() !== "painting" || !(event.ctrlKey || event.metaKey) || event.target.type === "number") return;
  const name = { z: event.shiftKey ? "redo" : "undo", y: "redo" }[event.key.toLowerCase()];
  if (!name) return;
  event.preventDefault();
  editor.change((mask) => mask[name]());
});

click("face", startCorrecting);
click("face-auto", () => align("auto"));
click("face-off", () => align("off"));
click("face-done", stopCorrecting);
faces.addEventListener("change", describe);
faces.addEventListener("done", stopCorrecting);
faces.addEventListener("cancel", () => align(former));

on("form", "submit", (event) => {
  event.preventDefault();
  if (!run && !$("fill").disabled) fill(!settings.repeats());
});
click("cancel", () => run?.control.abort());
addEventListener("pagehide", () => run?.id && service.cancel(run.id).catch(() => {}));

on("compare", "input", compare);
click("edit", () => {
  shown = null;
  setView("painting");
  changed();
});
click("download", () => save(shown.results[chosen].blob, resultName()));
click("continue", async () => {
  show(await sources.opened(shown.results[chosen].blob, picture.name, about.limits));
});
click("curl", showCurl);
click("curl-copy", copyCurl);
click("curl-close", () => $("curl-dialog").close());
click("save-picture", () => save(picture.blob, `picture.${picture.ending}`));
click("save-mask", () => save(shown.maskBlob, "mask.png"));
click("forget", () => {
  for (const { results } of runs.splice(0)) for (const { url } of results) URL.revokeObjectURL(url);
  listRuns();
  if (view() === "done") show(picture, editor.mask);
});

function showTheme() {
  const chosenTheme = document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
  $("theme").setAttribute("aria-pressed", String(chosenTheme === "dark"));
}
click("theme", () => {
  const theme = $("theme").getAttribute("aria-pressed") === "true" ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // Then it holds for this page alone.
  }
  showTheme();
});
dark.addEventListener("change", showTheme);

function showModel() {
  const taught = about.trained_on ? `, trained on ${about.trained_on}` : "";
  const task = about.task.name.replaceAll("_", " ");
  $("model").textContent = `Model ${about.version} · ${task} · ${about.image_size} px`;
  $("model").title = `In service: a model for ${task} at ${about.image_size} × ${about.image_size} pixels${taught}.`;
  $("model").hidden = false;
}

async function connect() {
  try {
    about = await service.info();
    settings.offer(about);
    words.speak(about.task);
    expect(about.eyes);
    showModel();
    hush();
  } catch (error) {
    explain(error, connect);
    if (error instanceof service.Unreachable) setTimeout(() => about ?? connect(), 4000);
  }
}

/** A hole on one of the samples, which comes and goes: what this page is for. */
function drawPatch() {
  const context = $("patch").getContext("2d");
  context.drawImage(noise(getComputedStyle($("patch")).color), 0, 0, $("patch").width * 1.6, $("patch").width * 1.6);
}

setView("empty");
drawPatch();
showTheme();
showSize();
connect();
