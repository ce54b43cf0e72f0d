/** Where pictures come from: files of any kind that the browser reads, canvases, the camera. */

const SENT_AS_IS = { "image/png": "png", "image/jpeg": "jpg", "image/webp": "webp" };

const encoded = (canvas, type, quality) => new Promise((done) => canvas.toBlob(done, type, quality));

function drawn(image, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff"; // the service puts transparent parts on white too
  context.fillRect(0, 0, width, height);
  context.drawImage(image, 0, 0, width, height);
  return canvas;
}

/** A picture as an image element, upright. */
export async function decoded(blob) {
  const image = new Image();
  image.src = URL.createObjectURL(blob);
  try {
    await image.decode();
  } catch {
    URL.revokeObjectURL(image.src);
    throw new Error("This file is not a picture that the browser can read.");
  }
  return image;
}

/**
 * A picture to work on: `blob` is what the service gets, the file itself where that is possible.
 *
 * @param {Blob} blob
 * @param {string} name without ending
 * @param {{pixels: number, bytes: number}} limits of the service
 */
export async function opened(blob, name, limits) {
  const image = await decoded(blob);
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  const shrink = Math.min(1, Math.sqrt((0.98 * limits.pixels) / (width * height)));
  const room = limits.bytes - 200_000; // for the mask and the form around it
  if (shrink === 1 && blob.size < room && SENT_AS_IS[blob.type]) {
    return { blob, name, ending: SENT_AS_IS[blob.type], image, width, height, note: "" };
  }
  const canvas = drawn(image, Math.floor(width * shrink) || 1, Math.floor(height * shrink) || 1);
  URL.revokeObjectURL(image.src);
  let fresh = await encoded(canvas, "image/png");
  if (fresh.size >= room) fresh = await encoded(canvas, "image/jpeg", 0.92);
  if (fresh.size >= room) throw new Error("This photo is too large for the service.");
  const made = await opened(fresh, name, { pixels: Infinity, bytes: Infinity });
  return { ...made, note: shrink < 1 ? `Scaled to ${made.width} × ${made.height} to fit the service.` : "" };
}

/** A file as the service reads it: itself, or a PNG of what the browser makes of it, transparency and all. */
export async function readable(blob) {
  if (SENT_AS_IS[blob.type]) return blob;
  const image = await decoded(blob);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  canvas.getContext("2d").drawImage(image, 0, 0);
  URL.revokeObjectURL(image.src);
  return encoded(canvas, "image/png");
}

/** A picture to work on, of a canvas. */
export const fromCanvas = async (canvas, name, limits) =>
  opened(await encoded(canvas, "image/png"), name, limits);

/** The first picture among what was dropped or pasted. */
export const pictureIn = (transfer) =>
  [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/")) ?? null;

export const hasCamera = () => Boolean(navigator.mediaDevices?.getUserMedia);

/** Shows the camera in a video element; returns how to switch it off. */
export async function startCamera(video) {
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user", width: { ideal: 1280 } } });
  video.srcObject = stream;
  await video.play();
  return () => {
    for (const track of stream.getTracks()) track.stop();
    video.srcObject = null;
  };
}

/** What the camera sees, the square in the middle. */
export function shot(video) {
  const side = Math.min(video.videoWidth, video.videoHeight);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  const [left, top] = [(video.videoWidth - side) / 2, (video.videoHeight - side) / 2];
  canvas.getContext("2d").drawImage(video, left, top, side, side, 0, 0, side, side);
  return canvas;
}
