"""Completions that another tool makes: found in a folder, or made by a command; and the pictures that it is given."""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from diffusion_lab.evaluation.methods import Fill, Method
from diffusion_lab.evaluation.problems import Problem
from diffusion_lab.evaluation.reference import PictureSet
from diffusion_lab.files import replacing
from diffusion_lab.opening import as_rgb, opened
from diffusion_lab.pictures import from_pil, to_float, to_pil, to_uint8

_DIGITS = 16
_TOLD = 300  # characters of what a tool wrote before it failed


def export(folder: Path, pictures: PictureSet, problems: Mapping[str, Problem], n: int | None = None) -> int:
    """Write what every method is given: `images/NAME.png`, the hole grey, and `masks/NAME.png`, white = hole.

    The name, `center-00012-<16 hexadecimal digits>`, is of the mask kind, the picture's index and the content of both.

    Args:
        folder: is made; files of the same names are replaced.
        pictures: the split.
        problems: what is asked, by name.
        n: how many pictures; None is all.

    Returns:
        How many images were written.
    """
    n = len(pictures) if n is None else n
    if not 1 <= n <= len(pictures):
        raise ValueError(f"Cannot export {n} pictures: this split has {len(pictures)}; ask for 1 to {len(pictures)}.")
    for kind, problem in problems.items():
        for number in range(n):
            index = torch.tensor([number])
            pixels, hole = pictures[index], problem.regions(pictures.images.shape[-1], index)
            image = problem.task.plain(to_float(problem.given(pixels, hole, index)), hole, grey=0.0)[0]
            where = re.sub(r"\W+", "_", kind)
            name = f"{where}-{number:05d}-{_digest(image, hole[0])}.png"
            _write(image, hole[0], folder / "images" / name, folder / "masks" / name)
    return n * len(problems)


def folder(name: str, root: str) -> Method:
    """Completions in a folder, each with the 16 digits of its picture's name, as `export` gives it, in its own.

    Args:
        name: how the report calls the tool.
        root: the folder.

    ValueError, when it is built or when it fills, for one that is missing, of another size, or whose known pixels
    differ from the given ones by more than a level of 255.
    """
    place = Path(root)
    if not place.is_dir():
        raise ValueError(f"{name}: there is no folder '{root}' of completions: name the one that the tool wrote to")
    found, sha256 = {}, hashlib.sha256()
    for path in sorted(place.iterdir(), reverse=True):  # of two that fit, the first in the alphabet
        if digits := re.search(rf"(?<![0-9a-f])[0-9a-f]{{{_DIGITS}}}(?![0-9a-f])", path.stem):
            found[digits[0]] = path
            sha256.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()} ".encode())

    def completion(image: Tensor, hole: Tensor) -> Tensor:
        digits = _digest(image, hole)
        if digits not in found:
            raise ValueError(
                f"{name}: '{root}' has no completion of the picture whose name ends in {digits}, and {len(found)} of "
                "others: write the pictures with export=FOLDER and these very settings, and complete all of them"
            )
        return _checked(name, found[digits], image, hole)

    return Method(name, _each(completion), identity=sha256.hexdigest())


def command(name: str, line: str, timeout: float = 600.0) -> Method:
    """A tool that is started for each picture, without a shell; its time includes the start.

    Args:
        name: how the report calls the tool.
        line: its program and arguments, quoted as in a shell; `{image}`, `{mask}` and `{output}` in them become the
            paths of PNG files, of which it writes the last. Without `{mask}` it is not told where the hole is.
        timeout: seconds that a picture may take.

    ValueError, when it is built, for a line without an image or output; when it fills, for a tool that is not there,
    fails, says nothing for too long, or writes what `folder` would not take.
    """
    try:
        arguments = shlex.split(line)
    except ValueError as error:
        raise ValueError(f"{name}: the command {line} cannot be read ({error}): close what is quoted") from None
    missing = [place for place in ("{image}", "{output}") if not any(place in argument for argument in arguments)]
    if missing:
        raise ValueError(f"{name}: the command '{line}' says nowhere {missing[0]}: put it where the path belongs")

    def completion(image: Tensor, hole: Tensor) -> Tensor:
        with tempfile.TemporaryDirectory() as place:
            paths = {f"{{{what}}}": Path(place) / f"{what}.png" for what in ("image", "mask", "output")}
            _write(image, hole, paths["{image}"], paths["{mask}"])
            started = [
                re.sub(r"\{(image|mask|output)\}", lambda found: str(paths[found[0]]), argument)
                for argument in arguments
            ]
            _run(name, started, timeout)
            if not paths["{output}"].exists():
                raise ValueError(f"{name}: '{arguments[0]}' ended well and wrote no {{output}}: look at its arguments")
            return _checked(name, paths["{output}"], image, hole)

    return Method(name, _each(completion), identity=line)


def _run(name: str, arguments: list[str], timeout: float) -> None:
    try:
        subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=True)
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"{name}: '{arguments[0]}' took more than {timeout:g} s for a picture: give it more by timeout="
        ) from None
    except subprocess.CalledProcessError as error:
        told = " ".join(error.stderr.decode(errors="replace").split())[-_TOLD:] or "nothing on stderr"
        raise ValueError(f"{name}: '{arguments[0]}' failed with {error.returncode} and said: {told}") from None
    except OSError as error:
        raise ValueError(f"{name}: '{arguments[0]}' cannot be started ({error.strerror}): name its path") from None


def _each(completion: Callable[[Tensor, Tensor], Tensor]) -> Fill:
    def fill(image: Tensor, mask: Tensor, seeds: Tensor) -> Tensor:
        filled = [completion(x, hole) for x, hole in zip(image.cpu(), mask.cpu(), strict=True)]
        return torch.where(mask, torch.stack(filled).to(image), image)

    return fill


def _checked(name: str, path: Path, image: Tensor, hole: Tensor) -> Tensor:
    """A completion ``(3, S, S)`` in [-1, 1] that is one of this picture."""
    picture = as_rgb(opened(path, name))
    size = image.shape[-1]
    if picture.size != (size, size):
        raise ValueError(f"{name}: '{path}' is {picture.width}x{picture.height} and the picture {size}x{size}")
    completed = from_pil(picture)
    differs = (to_uint8(completed).int() - to_uint8(image).int()).abs().masked_fill(hole, 0).max()
    if differs > 1:
        raise ValueError(
            f"{name}: '{path}' differs by {int(differs)} levels of 255 where the picture is known: it is of another "
            "picture, was changed there, or lost it in a format such as JPEG"
        )
    return completed


def _digest(image: Tensor, hole: Tensor) -> str:
    """Names a picture by what is given of it, ``(3, S, S)``, and by its hole, ``(1, S, S)``."""
    content = to_uint8(image).numpy().tobytes() + hole.numpy().tobytes()
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def _write(image: Tensor, hole: Tensor, image_path: Path, mask_path: Path) -> None:
    for picture, path in ((to_pil(image), image_path), (Image.fromarray(hole[0].numpy()).convert("L"), mask_path)):
        with replacing(path) as fresh:
            picture.save(fresh)
