/** How a hole is to be filled: completions, steps, sampler, seed and edge, as a person sets them. */

const STEPS = [2, 5, 10, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 250, 500, 1000];
const COUNTS = [1, 2, 4, 8];
const MOST_SEED = 2 ** 31 - 1;
const NAMES = {
  ddim: "DDIM",
  ddpm: "DDPM",
  dpm_solver: "DPM-Solver++",
  heun: "Heun",
  palette: "Palette",
  repaint: "RePaint",
  dps: "DPS",
  mcg: "MCG",
};

const $ = (id) => document.getElementById(id);

let about = null; // what the service offers

/** What people call a sampler. */
export const nameOf = (sampler) => NAMES[sampler] ?? sampler.replaceAll("_", " ");

/** Another seed, short enough to be told. */
export function redraw() {
  $("seed").value = crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;
}

/** Whether the next run is to have the same seed. */
export const repeats = () => $("repeat").checked;

function steps() {
  const { steps: usual, least, most } = about.samplers[$("sampler").value];
  const offered = STEPS.filter((n) => n >= least && n <= most);
  return [...new Set([...offered, usual])].sort((a, b) => a - b);
}

function showSteps() {
  const count = steps()[$("steps").valueAsNumber];
  $("steps-text").textContent = count;
  $("steps").setAttribute("aria-valuetext", `${count} steps`);
  $("steps").style.setProperty("--part", $("steps").valueAsNumber / Math.max(1, $("steps").max));
}

function setSteps(wanted) {
  const offered = steps();
  const nearest = offered.reduce((a, b) => (Math.abs(b - wanted) < Math.abs(a - wanted) ? b : a));
  $("steps").max = offered.length - 1;
  $("steps").value = offered.indexOf(nearest);
  showSteps();
}

/** Pixels of a picture over which a filling fades in: two of the model's, which are larger. */
const softness = ({ width, height }) =>
  Math.min(about.limits.feather, Math.round((2 * Math.min(width, height)) / about.image_size));

/** The settings, for a picture. */
export const read = (picture) => ({
  num_samples: Number(document.querySelector("[name=count]:checked").value),
  steps: steps()[$("steps").valueAsNumber],
  sampler: $("sampler").value,
  seed: Math.min(MOST_SEED, Math.max(0, Math.floor($("seed").valueAsNumber || 0))),
  feather: $("soft").checked ? softness(picture) : 0,
});

/** Sets them as they were for a run. */
export function write({ num_samples, steps: count, sampler, seed, feather }) {
  const box = document.querySelector(`[name=count][value="${num_samples}"]`);
  if (box) box.checked = true;
  if (about.samplers[sampler]) $("sampler").value = sampler;
  setSteps(count);
  $("seed").value = seed;
  $("soft").checked = feather > 0;
}

/** Fills the controls with what a service offers. */
export function offer(info) {
  about = info;
  const counts = COUNTS.filter((n) => n <= about.limits.num_samples);
  $("counts").replaceChildren(
    ...counts.map((n) => {
      const label = document.createElement("label");
      const input = Object.assign(document.createElement("input"), { type: "radio", name: "count", value: n });
      input.checked = n === Math.min(4, counts.at(-1));
      label.append(input, String(n));
      return label;
    }),
  );
  $("sampler").replaceChildren(
    ...Object.keys(about.samplers).map((name) => {
      const own = name === about.default_sampler;
      return new Option(own ? `${nameOf(name)} (the model's own)` : nameOf(name), name, own, own);
    }),
  );
  setSteps(about.samplers[$("sampler").value].steps);
}

$("steps").addEventListener("input", showSteps);
$("sampler").addEventListener("change", () => setSteps(about.samplers[$("sampler").value].steps));
$("dice").addEventListener("click", () => {
  redraw();
  $("repeat").checked = true; // who draws a seed wants this one
});
$("seed").addEventListener("input", () => ($("repeat").checked = true));
redraw();
