"""Pictures of holes as people save them, read as masks: white on black, labels, coloured strokes, transparency.

What varies decides: transparency where the colour is the same all over, colour elsewhere. A picture that can be read in
two ways is refused with what was seen in it, and with the words that say which is meant.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from diffusion_lab.opening import as_rgb, deep

MaskMode = Literal["white", "transparent", "nonzero"]
"""What is the hole: what is light, what is transparent, or all that is not 0 (of what varies)."""

Floats = NDArray[np.float32]

MOST_COLOURS = 2**16
"""A picture of more is a photo."""
STRIP = 256
"""Rows that are floats at a time."""
END = 1 / 8
"""How near to an end of its range a value is that is no value of its own, but noise of a lossy file."""
MOST_SOFT = 1 / 3
"""Share of values between the ends, unless they are black and white, above which a picture is a photo."""
MOST_FLAT = 1 / 100
"""Share of flat areas between the ends above which they are labels and no edges."""
MOST_ODD = 1 / 200
"""Share of colours off the line between the two of a mask, above which there are more than two."""
ODD = 0.4
"""How far off, in lengths of the line: the blurred colours of a JPEG's edges reach a third."""
LEAST_SPAN = 64
"""Three whole numbers or more within less are labels or noise."""


class Ambiguous(ValueError):
    """A picture can be read as more than one mask."""


def as_mask(picture: Image.Image, mode: MaskMode | None = None) -> Tensor:
    """``(1, H, W)`` bool, True = hole, from the middle of an edge on.

    Args:
        picture: of a hole, in any mode.
        mode: what is the hole; None is decided by what varies.

    Raises:
        Ambiguous: without a mode, if the picture can be read in more than one way.
        ValueError: if there is no such mode, or the picture lacks what it looks at.

    Example:
        >>> labels = Image.fromarray(np.array([[0, 0, 1]], dtype=np.uint8))
        >>> as_mask(labels).tolist()
        [[[False, False, True]]]
    """
    if mode is None:
        hole = varying(picture)
    elif mode in READERS:
        hole = READERS[mode](picture)
    else:
        raise ValueError(f"mask_mode={mode} is none of {', '.join(get_args(MaskMode))}")
    return torch.from_numpy(hole)[None]


def white(picture: Image.Image) -> NDArray[np.bool_]:
    """What is lighter than middle grey; what is transparent is not."""
    if deep(picture) or not picture.has_transparency_data:
        rgb = as_rgb(picture)
    else:
        clear = picture.convert("RGBA")
        rgb = Image.alpha_composite(Image.new("RGBA", clear.size, "black"), clear)
    light: NDArray[np.bool_] = np.asarray(rgb.convert("L")) > 127
    return light


def transparent(picture: Image.Image) -> NDArray[np.bool_]:
    """What is more transparent than opaque."""
    if not picture.has_transparency_data:
        raise ValueError(f"the mask ({picture.mode}) has no transparency: mask_mode=transparent needs an alpha channel")
    return np.less(_alpha(picture), 128, dtype=np.bool_)


def nonzero(picture: Image.Image) -> NDArray[np.bool_]:
    """What is not wholly transparent; where nothing is, what is not black."""
    if deep(picture):
        values: NDArray[np.generic] = np.asarray(picture)[..., None]
    elif picture.has_transparency_data and _alpha(picture).min() == 0:
        values = _alpha(picture)[..., None]
    else:
        values = np.asarray(as_rgb(picture))
    found: NDArray[np.bool_] = (values != 0).any(axis=-1)
    return found


def _alpha(picture: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(picture.convert("RGBA").getchannel("A"), dtype=np.uint8)


READERS: Mapping[str, Callable[[Image.Image], NDArray[np.bool_]]] = {
    "white": white,
    "transparent": transparent,
    "nonzero": nonzero,
}


@dataclass(frozen=True)
class Seen:
    """The values that a picture holds.

    Args:
        mode: of the picture.
        values: (N, C) different ones, with channels L, RGB or RGBA; None if there are more than `MOST_COLOURS`.
        shares: (N,) of the picture.
        clear: share of it that is wholly transparent; None without transparency.
    """

    mode: str
    values: Floats | None
    shares: Floats
    clear: float | None

    def ambiguous(self) -> Ambiguous:
        """The sentence that says what was seen, and how to say what is meant."""
        ways = ["mask_mode=white if what is light is the hole", "mask_mode=nonzero if all is that is not 0"]
        ways += ["mask_mode=transparent if what is transparent is"] if self.clear is not None else []
        return Ambiguous(
            f"the mask can be read in more than one way: it is {self.mode} and holds {self.told()}; say "
            f"{', '.join(ways[:-1])}, or {ways[-1]}"
        )

    def told(self) -> str:
        """The most frequent values and their shares."""
        clear = f"transparent ({100 * self.clear:.3g} %)" if self.clear else ""
        if self.values is None:
            return f"more than {MOST_COLOURS:,} colours" + (f", {clear}" if clear else "")
        visible = np.ones(len(self.values), np.bool_) if self.clear is None else self.values[:, 3] > 0
        values, shares = self.values[visible], self.shares[visible]
        shown = [f"{_name(values[i])} ({100 * shares[i]:.3g} %)" for i in np.argsort(-shares, kind="stable")[:4]]
        more = f" and {len(values) - 4:,} other values" if len(values) > 4 else ""
        return ", ".join([clear, *shown] if clear else shown) + more


def _name(value: Floats) -> str:
    if len(value) == 4:
        return _name(value[:3]) + ("" if value[3] == 255 else f" with alpha {value[3]:g}")
    if len(value) == 1:
        return f"{value[0]:g}"
    return "#" + "".join(f"{int(channel):02x}" for channel in value)


def varying(picture: Image.Image) -> NDArray[np.bool_]:
    """The hole of a picture that says by itself what it is.

    Raises:
        Ambiguous: if it does not.
        ValueError: if it shows nothing.
    """
    clear = None
    if deep(picture):
        rows = np.asarray(picture).astype(np.float32)[..., None]
        found, counts = np.unique(rows, return_counts=True)
        values: Floats | None = found[:, None]
        if not np.isfinite(found).all():
            raise ValueError(f"the mask ({picture.mode}) holds values that are no numbers: save it without them")
    else:
        has_alpha = picture.has_transparency_data
        if has_alpha or picture.mode in ("1", "L"):
            plain = picture.convert("RGBA" if has_alpha else "L")
        else:
            plain = as_rgb(picture)
        rows = np.asarray(plain).reshape(plain.height, plain.width, -1)
        table = plain.getcolors(MOST_COLOURS)
        values = None if table is None else np.array([value for _, value in table], np.float32).reshape(len(table), -1)
        counts = np.array([count for count, _ in table or ()])
        clear = float((rows[..., 3] == 0).mean()) if has_alpha else None
    seen = Seen(picture.mode, values, (counts / rows.shape[0] / rows.shape[1]).astype(np.float32), clear)
    if values is None:
        raise seen.ambiguous()
    if values.shape[1] == 4 and np.ptp(values[:, 3]) > 8:
        return _between(rows[..., 3:], _strokes(seen, values), seen)
    if values.shape[1] == 4 and values[:, 3].max() == 0:
        raise ValueError(f"the mask ({picture.mode}) is transparent all over, so there is nothing to fill")
    if len(values) == 1:
        return np.full(rows.shape[:2], bool(values[0, :3].mean() > 127))
    return _between(rows[..., :3], _colours(seen, values[:, :3]), seen)


Ends = tuple[Floats, Floats]
"""The value of what is known, and that of the hole."""


def _strokes(seen: Seen, values: Floats) -> Ends:
    """The ends of the alpha channel of strokes on transparency, which have one colour that is not black."""
    alpha = values[:, 3]
    low, high = alpha.min(), alpha.max()
    visible = alpha > (low + high) / 2
    colours, shares = values[visible, :3], seen.shares[visible]
    colour = colours[shares.argmax()]
    alike = np.abs(colours - colour).max(1) <= 32
    # Black on transparency is known as often as it is paint.
    if shares[alike].sum() < 0.95 * shares.sum() or colour.max() < 64:
        raise seen.ambiguous()
    ends = low[None], high[None]
    _check(alpha[:, None], seen, ends)
    return ends


def _colours(seen: Seen, values: Floats) -> Ends:
    """The two colours of a mask: greys, of which the lighter one is the hole, or black and another one."""
    if values.shape[1] == 1:
        ends = values.min(0), values.max(0)
    else:
        first = values[seen.shares.argmax()]
        distance = np.linalg.norm(values - first, axis=1)
        # Not the farthest: in a JPEG that is noise of an edge.
        ends = first, values[np.where(distance >= 0.75 * distance.max(), seen.shares, 0).argmax()]
    dark, light = sorted(ends, key=lambda value: float(value.sum()))
    greys = all(np.ptp(value) <= 16 for value in ends)
    if not (greys or dark.max() <= light.max() / 4):
        raise seen.ambiguous()
    _check(values, seen, (dark, light))
    return dark, light


def _check(values: Floats, seen: Seen, ends: Ends) -> None:
    """That nearly all values lie on the line between two, and not too many of them far from both."""
    place = _places(values, ends)
    length = float(np.linalg.norm(ends[1] - ends[0]))
    off = np.linalg.norm(values - (ends[0] + place.clip(0, 1)[:, None] * (ends[1] - ends[0])), axis=1) > ODD * length
    between = (place > END) & (place < 1 - END)
    whole = bool((values == values.round()).all())
    labels = len(values) > 2 and whole and np.abs(ends[1] - ends[0]).max() < LEAST_SPAN
    soft = ends[0].max() <= 8 and ends[1].min() >= 247  # from black to white it may fall as gently as it likes
    if labels or seen.shares[off].sum() > MOST_ODD or (not soft and seen.shares[between].sum() > MOST_SOFT):
        raise seen.ambiguous()


def _places(values: NDArray[np.generic], ends: Ends) -> Floats:
    """Where values (..., C) lie on the line from one end, 0, to the other, 1."""
    line = ends[1] - ends[0]
    return ((values.astype(np.float32) - ends[0]) @ (line / (line @ line))).astype(np.float32)


def _between(rows: NDArray[np.generic], ends: Ends, seen: Seen) -> NDArray[np.bool_]:
    """What is nearer to the hole's value than to the other.

    Args:
        rows: (H, W, C).
        ends: of its values.
        seen: for errors.
    """
    hole = np.empty(rows.shape[:2], np.bool_)
    grey = np.empty(rows.shape[:2], np.uint8)
    for top in range(0, len(rows), STRIP):
        place = _places(rows[top : top + STRIP], ends)
        hole[top : top + STRIP] = place > 0.5
        grey[top : top + STRIP] = (255 * place.clip(0, 1)).round()
    between = (grey > 255 * END) & (grey < 255 * (1 - END))
    if between.mean() > MOST_FLAT:
        # An edge is nowhere flat, however soft; a label is.
        level = Image.fromarray(grey)
        highest, lowest = (np.asarray(level.filter(kind(3))) for kind in (ImageFilter.MaxFilter, ImageFilter.MinFilter))
        if (between & (highest == lowest)).mean() > MOST_FLAT:
            raise seen.ambiguous()
    return hole
