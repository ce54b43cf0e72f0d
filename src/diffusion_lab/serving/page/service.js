/**
 * The service as this page calls it: submit a job, follow it, cancel it, fetch its pictures.
 *
 * Events are read by fetch and not by EventSource, which cannot send a key.
 */

const RESUMES = 5; // how often a broken stream of events is taken up again

/** The service said no: its own sentence, and when to ask again. */
export class Refused extends Error {
  constructor(status, code, message, retryAfter) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }
}

/** Nobody answered. */
export class Unreachable extends Error {}

const place = (path) => new URL(path, document.baseURI);

export const key = {
  get: () => sessionStorage.getItem("key") ?? "",
  set: (value) => sessionStorage.setItem("key", value),
};

async function request(path, { headers = {}, ...options } = {}) {
  const secret = key.get();
  let answer;
  try {
    answer = await fetch(place(path), {
      ...options,
      headers: secret ? { ...headers, Authorization: `Bearer ${secret}` } : headers,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("The service does not answer.");
  }
  if (answer.ok) return answer;
  let said = {};
  try {
    said = (await answer.json()).error ?? {};
  } catch {
    // A proxy in between may answer in HTML; the status has to do.
  }
  const seconds = Number.parseInt(answer.headers.get("Retry-After") ?? "", 10);
  throw new Refused(
    answer.status,
    said.code ?? "unknown",
    said.message ?? `The service answered with status ${answer.status}.`,
    Number.isFinite(seconds) ? seconds : null,
  );
}

/** What the service is: version, size, samplers, limits. */
export const info = async () => (await request("v1/info")).json();

/** All faces in a picture: eyes and outline of what the model sees, in pixels of the picture. */
export async function faces(picture, signal) {
  const body = new FormData();
  body.set("image", picture, "picture");
  return (await (await request("v1/faces", { method: "POST", body, signal })).json()).faces;
}

/** A mask of any kind in black and white, white = hole; `mode` says what is the hole where the mask itself does not. */
export async function mask(picture, mode) {
  const body = new FormData();
  body.set("mask", picture, "mask");
  if (mode) body.set("mask_mode", mode);
  return (await request("v1/masks", { method: "POST", body })).blob();
}

/** The fields of a request; without a hole there is no edge to soften and no face to align. */
const fields = ({ feather, align, ...others }, masked) =>
  Object.entries({ ...others, ...(masked && { feather }), ...(masked && align !== "auto" && { align }) });

/** Hands a picture and its hole over, null for the whole picture; `settings` are the other fields. */
export async function submit(picture, mask, settings, previews) {
  const body = new FormData();
  body.set("image", picture, "picture");
  if (mask) body.set("mask", mask, "mask.png");
  for (const [name, value] of fields({ ...settings, previews }, mask)) body.set(name, String(value));
  return (await request("v1/jobs", { method: "POST", body })).json();
}

/** Stops a job; one that has ended already is as well. */
export async function cancel(id) {
  try {
    await request(`v1/jobs/${id}`, { method: "DELETE", keepalive: true }); // also while the page closes
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
  }
}

/** A result as the PNG that the service made. */
export const result = async (id, index, signal) =>
  (await request(`v1/jobs/${id}/images/${index}`, { signal })).blob();

/** A whole block of a stream of events, or null for a comment. */
function parsed(block) {
  const event = { id: null, name: "message", data: "" };
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon <= 0) continue;
    const value = line.slice(colon + 1).replace(/^ /, "");
    if (line.startsWith("id:")) event.id = value;
    else if (line.startsWith("event:")) event.name = value;
    else if (line.startsWith("data:")) event.data += value;
  }
  return event.data ? { ...event, data: JSON.parse(event.data) } : null;
}

/** The events of a job up to its end; a stream that breaks is taken up where it broke. */
export async function* events(id, signal) {
  let last = null;
  for (let attempt = 0; ; ) {
    try {
      const headers = last === null ? {} : { "Last-Event-ID": last };
      const answer = await request(`v1/jobs/${id}/events`, { headers, signal });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ""; ; ) {
        const { done, value } = await reader.read();
        if (done) break;
        const blocks = (rest + value).replace(/\r\n/g, "\n").split("\n\n");
        rest = blocks.pop();
        for (const event of blocks.map(parsed)) {
          if (event === null) continue;
          if (event.id !== null) last = event.id;
          attempt = 0;
          yield event;
          if (["completed", "failed", "canceled"].includes(event.name)) return;
        }
      }
    } catch (error) {
      if (error.name === "AbortError" || error instanceof Refused) throw error;
    }
    if (++attempt > RESUMES) throw new Unreachable("The connection to the service was lost.");
    await new Promise((wake) => setTimeout(wake, 300 * 2 ** attempt));
  }
}

/** The request as a curl line, with or without a mask, with the files that the page saves under these names. */
export function curl(pictureName, masked, settings) {
  const one = Number(settings.num_samples) === 1;
  const lines = [`curl ${place("v1/restore")}`];
  if (key.get()) lines.push('-H "Authorization: Bearer $KEY"');
  lines.push(`-H 'Accept: ${one ? "image/png" : "application/json"}'`);
  lines.push(`-F image=@${pictureName}`);
  if (masked) lines.push("-F mask=@mask.png");
  for (const [name, value] of fields(settings, masked)) lines.push(name === "align" ? `-F '${name}=${value}'` : `-F ${name}=${value}`);
  lines.push(one ? "-o filled.png" : "-o filled.json");
  return lines.join(" \\\n  ");
}
