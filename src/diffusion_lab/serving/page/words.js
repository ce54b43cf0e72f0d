/** What the page says, by what the model in service wants of a mask: it is "needed", of use for "none", or "optional". */

const $ = (id) => document.getElementById(id);

// Of the elements whose id it is; those of a model that needs a mask stand in index.html.
const ELSE = {
  none: {
    headline: "Bring an old picture.\nWatch it become new.",
    lead: "Choose a picture of a face. A diffusion model makes it anew step by step, and shows you several ways it could look.",
    "painting-title": "Restore the picture",
    "running-title": "Making the picture anew, step by step",
    "edit-text": "Back to the picture",
    "curl-files": "Save the picture first. The answer is the picture that you see.",
  },
  optional: {
    headline: "Paint out a part,\nor restore it all.",
    lead: "Cover a part of a face, or nothing at all. A diffusion model makes it anew step by step, and shows you several ways it could look.",
    "running-title": "Making it anew, step by step",
    "edit-text": "Back to the picture",
  },
};
const TITLES = { none: "restore a picture", optional: "fill or restore a face" };

let wanted = "needed";

/** Whether there is something to paint. */
export const paints = () => wanted !== "none";

/** Whether a hole as large as `part` of the picture can be sent as a mask: some of it must be known. */
export const isHole = (part) => paints() && part > 0 && part < 1;

/** Whether the model can start, given a hole of that size. */
export const canStart = (part) => wanted !== "needed" || isHole(part);

/** What the button that starts it says. */
export function goes(part, again) {
  if (isHole(part) || wanted === "needed") return again ? "Fill again" : "Fill the hole";
  return again ? "Restore again" : "Restore";
}

/** What there is to do next. */
function task(part) {
  if (!paints()) return "The whole picture is made anew.";
  if (isHole(part)) return `The hole is ${part < 0.01 ? "less than 1" : Math.round(100 * part)} % of the picture.`;
  if (wanted === "optional") return "Paint over what should be made anew; without a hole the whole picture is.";
  return part === 1 ? "Leave some of the face to go by." : "Paint over what should be made anew.";
}

/** The same, and what stands in the way of a good filling. */
export const hint = (part, { align, faces }) =>
  paints() && align === "auto" && faces?.length === 0
    ? `${task(part)} No face found: it may look worse.`
    : task(part);

/** What the handles are for. */
export const HANDLES = "So the model sees the face upright.";

/** How the face stands, and what a person may do about it; `faces` are there once the service has found them. */
export function face({ align, faces }) {
  if (align === "off") return ["Face: off", "change"];
  if (align !== "auto") return ["Face: set by you", "change"];
  if (!faces) return ["Face", "correct"];
  if (faces.length === 0) return ["Face: not found", "show it"];
  return [faces.length > 1 ? `Faces: ${faces.length} found` : "Face: found", "correct"];
}

/** What is kept while the service does not answer. */
export const kept = () => (paints() ? "Your picture and your hole are kept." : "Your picture is kept.");

/** Says everything as it is for a task, and takes away what is of no use for it. */
export function speak({ mask }) {
  wanted = mask;
  for (const part of document.querySelectorAll("[data-paint]")) part.hidden = !paints();
  if (wanted === "needed") return;
  for (const [id, text] of Object.entries(ELSE[wanted])) $(id).textContent = text;
  document.title = `diffusion_lab · ${TITLES[wanted]}`;
}
