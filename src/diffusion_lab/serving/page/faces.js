/** The faces of a picture, as the service found them or a person sets them: outlines, and two handles on the eyes. */

const APART = 2; // pixels of the picture between two eyes, at least
const RIM = 0.016; // part of the longer side that outlines keep from the picture's edges
const [STEP, STRIDE] = [0.0025, 0.02]; // of a handle by keys, parts of the longer side

const rounded = (n) => Math.round(10 * n) / 10;

/** The field of a request: both eyes as one looks at the picture, in pixels, or "auto" or "off". */
export const told = (align) =>
  typeof align === "string" ? align : JSON.stringify(align.map(({ x, y }) => [rounded(x), rounded(y)]));

/** The outline of other eyes: the similarity that takes a face's eyes there takes its outline along. */
function carried({ left, right, outline }, [to, end]) {
  const [dx, dy, ex, ey] = [right.x - left.x, right.y - left.y, end.x - to.x, end.y - to.y];
  const size = dx ** 2 + dy ** 2;
  const [a, b] = [(ex * dx + ey * dy) / size, (ey * dx - ex * dy) / size];
  return outline.map(({ x, y }) => ({
    x: to.x + a * (x - left.x) - b * (y - left.y),
    y: to.y + b * (x - left.x) + a * (y - left.y),
  }));
}

const SQUARE = [[0, 0], [1, 0], [1, 1], [0, 1]].map(([x, y]) => ({ x, y }));

let expected = null; // where the model in service has eyes in its square

/** Tells of a model's eyes, in parts of its square; null: it says nothing of them, and is shown no face upright. */
export const expect = (eyes) => (expected = eyes && { ...eyes, outline: SQUARE });

/** Whether the model is shown faces upright at all. */
export const aligns = () => expected !== null;

/** The eyes of the faces that a picture is aligned by. */
function used({ align, faces }) {
  if (align === "off" || !aligns()) return [];
  if (align === "auto") return (faces ?? []).map(({ left, right }) => [left, right]);
  return [align];
}

/** What of a polygon lies on one side of an upright or level line (Sutherland and Hodgman 1974). */
const cut = (corners, axis, edge, sign) =>
  corners.flatMap((end, i) => {
    const start = corners.at(i - 1);
    const [from, to] = [sign * (start[axis] - edge), sign * (end[axis] - edge)];
    const part = from / (from - to);
    const crossing = { x: start.x + part * (end.x - start.x), y: start.y + part * (end.y - start.y) };
    return [...(from > 0 === to > 0 ? [] : [crossing]), ...(to > 0 ? [end] : [])];
  });

/** An outline as far as it lies in the picture, a little within its edges, where it is seen. */
function polygon(corners, { width, height }) {
  const rim = RIM * Math.max(width, height);
  const low = cut(cut(corners, "x", rim, 1), "y", rim, 1);
  const seen = cut(cut(low, "x", width - rim, -1), "y", height - rim, -1);
  return seen.length ? `M${seen.map(({ x, y }) => `${x} ${y}`).join("L")}Z` : "";
}

const distance = (a, b) => Math.hypot(b.x - a.x, b.y - a.y);

/** A smile under two eyes, which shows what is up. */
function smile([left, right]) {
  const [dx, dy] = [right.x - left.x, right.y - left.y];
  const at = (along, down) => `${left.x + along * dx - down * dy} ${left.y + along * dy + down * dx}`;
  return `M${at(0.16, 0.84)}Q${at(0.5, 1.18)} ${at(0.84, 0.84)}`;
}

/**
 * Draws the faces of a picture over it, and lets a person correct its `align` by two handles; sends "change" when that
 * is another one, "done" and "cancel" for the keys that say so.
 */
export class FaceLayer extends EventTarget {
  #picture = null;
  #eyes = null; // under the handles; null while nobody corrects
  #drag = null;

  constructor(drawing, layer) {
    super();
    this.drawing = drawing;
    this.layer = layer;
    this.handles = [...layer.children];
    layer.addEventListener("pointerdown", (event) => this.#down(event));
    layer.addEventListener("mousedown", (event) => event.preventDefault()); // else the focus leaves the handle
    layer.addEventListener("pointermove", (event) => this.#move(event));
    layer.addEventListener("pointerup", () => (this.#drag = null));
    layer.addEventListener("pointercancel", () => this.#giveUp());
    for (const [i, handle] of this.handles.entries()) {
      handle.addEventListener("keydown", (event) => this.#press(event, i) && event.preventDefault());
    }
  }

  get #longer() {
    return Math.max(this.#picture.width, this.#picture.height);
  }

  open(picture) {
    this.#picture = picture;
    this.#eyes = this.#drag = null;
    this.refresh();
  }

  /** Draws what is known by now. */
  refresh() {
    const { width, height } = this.#picture;
    const lines = used(this.#picture).map((eyes) => polygon(carried(expected, eyes), this.#picture));
    if (this.#eyes) lines.push(smile(this.#eyes));
    this.drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.drawing.replaceChildren(
      ...["under", "over"].map((kind) => {
        const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
        path.setAttribute("class", kind);
        path.setAttribute("d", lines.join(""));
        return path;
      }),
    );
    if (this.#eyes) this.#showHandles();
  }

  #showHandles() {
    const { width, height } = this.#picture;
    // Those of a small face do not hide each other.
    this.layer.style.setProperty("--eye", `${(45 * distance(...this.#eyes)) / width}%`);
    for (const [i, { x, y }] of this.#eyes.entries()) {
      const [right, down] = [(100 * x) / width, (100 * y) / height];
      const place = `${right.toFixed(1)} % from the left, ${down.toFixed(1)} % from the top`;
      Object.assign(this.handles[i].style, { left: `${right}%`, top: `${down}%` });
      this.handles[i].setAttribute("aria-valuenow", Math.round(right));
      this.handles[i].setAttribute("aria-valuetext", place);
    }
  }

  /**
   * Puts the handles on the eyes that were set, or else on a face that was found, or else where one could be.
   *
   * @param {{x: number, y: number} | null} place parts of width and height; of several faces the closest one is taken
   */
  correct(place) {
    const { width, height, faces, align } = this.#picture;
    const at = place && { x: place.x * width, y: place.y * height };
    const away = ({ left, right }) => at && distance(at, { x: (left.x + right.x) / 2, y: (left.y + right.y) / 2 });
    if (Array.isArray(align)) this.#eyes = align;
    else if (faces?.length) {
      const { left, right } = faces.reduce((a, b) => (away(b) < away(a) ? b : a));
      this.#eyes = [left, right];
    } else {
      const half = Math.min(width, height) / 8;
      this.#eyes = [-half, half].map((dx) => ({ x: width / 2 + dx, y: 0.45 * height }));
    }
    this.refresh();
  }

  #put(i, point) {
    const { width, height } = this.#picture;
    const eye = { x: Math.min(width, Math.max(0, point.x)), y: Math.min(height, Math.max(0, point.y)) };
    const other = this.#eyes[1 - i];
    if (distance(eye, other) < APART) return;
    this.#eyes = this.#picture.align = i === 0 ? [eye, other] : [other, eye];
    this.#changed();
  }

  #place({ clientX, clientY }) {
    const box = this.drawing.getBoundingClientRect();
    return {
      x: ((clientX - box.left) / box.width) * this.#picture.width,
      y: ((clientY - box.top) / box.height) * this.#picture.height,
    };
  }

  /** The eye that is closer moves as the pointer does, which may lie beside it: a finger would hide it. */
  #down(event) {
    if (this.#drag !== null) {
      this.#giveUp(); // a second finger: the person wants to zoom
      return;
    }
    if (event.button !== 0) return;
    const from = this.#place(event);
    const [first, second] = this.#eyes.map((eye) => distance(eye, from));
    const i = first <= second ? 0 : 1;
    event.currentTarget.setPointerCapture(event.pointerId);
    this.handles[i].focus({ preventScroll: true });
    this.#drag = { i, from, eyes: this.#eyes, align: this.#picture.align, pointer: event.pointerId };
  }

  #giveUp() {
    if (this.#drag === null) return;
    ({ eyes: this.#eyes, align: this.#picture.align } = this.#drag);
    this.#drag = null;
    this.#changed();
  }

  #changed() {
    this.refresh();
    this.dispatchEvent(new Event("change"));
  }

  #move(event) {
    if (this.#drag?.pointer !== event.pointerId) return;
    const { i, from, eyes } = this.#drag;
    const { x, y } = this.#place(event);
    this.#put(i, { x: eyes[i].x + x - from.x, y: eyes[i].y + y - from.y });
  }

  #press(event, i) {
    if (event.ctrlKey || event.metaKey || event.altKey) return false;
    const step = this.#longer * (event.shiftKey ? STRIDE : STEP);
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (moves[event.key]) {
      const [dx, dy] = moves[event.key];
      this.#put(i, { x: this.#eyes[i].x + dx, y: this.#eyes[i].y + dy });
    } else if (event.key === "Enter") this.dispatchEvent(new Event("done"));
    else if (event.key === "Escape") this.dispatchEvent(new Event("cancel"));
    else return false;
    return true;
  }
}
