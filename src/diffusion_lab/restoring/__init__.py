"""What `inpaint.py` and `restore.py` do: one picture in, one or more out; or many, however often it is cut.

The folder that many go to holds ``restored.jsonl`` beside them: first the settings, then a line for each picture that
is done. So the same call again goes on where it was killed, and other settings are told from these.
"""

import contextlib
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from diffusion_lab import cascade, credentials, photo
from diffusion_lab.cascade import Model
from diffusion_lab.data.crops import Crop, named
from diffusion_lab.diffusion.sampling import Sampler
from diffusion_lab.files import held, replacing
from diffusion_lab.holes import MaskMode, as_mask
from diffusion_lab.inpainting import device, version_of
from diffusion_lab.opening import as_rgb, opened
from diffusion_lab.photo import Photo
from diffusion_lab.pictures import png
from diffusion_lab.restoring import albums, workers
from diffusion_lab.restoring.albums import Facts, Picture
from diffusion_lab.restoring.film import FORMATS, Camera, encoded
from diffusion_lab.restoring.workers import Failed, Made, Make
from diffusion_lab.scripts import chosen

RECORD = "restored.jsonl"
PLACES = ("image", "hole", "output", "film", "inpainter", "device", "workers", "paths", "hydra")
"""Settings that change where a picture comes from, where it goes and who makes it, but nothing in it."""


@dataclass(frozen=True)
class Restorer:
    """A model, and the settings by which it restores pictures, whether one or many.

    The seeds are ``seed``, ``seed + 1`` and so on for every picture, whatever its name and its neighbours: one of a
    folder is, bit for bit, what a call for it alone makes on a device of the same kind with as many threads.

    Args:
        model: on its device.
        sampler: None is the model's own.
        seeds: one per completion.
        align: as of `photo.eyes_of`.
        mask_mode: as of `holes.as_mask`.
        detail: as of `photo.cut`.
        feather: as of `photo.paste`.
        attributes: as of `photo.fill`.
        signed: a finished file with its content credentials; None leaves files as they are.
    """

    model: Model
    sampler: Sampler | None
    seeds: tuple[int, ...]
    align: Any = "auto"
    mask_mode: MaskMode | None = None
    detail: int = 512
    feather: int = 0
    attributes: Mapping[str, float] | None = None
    signed: Callable[[bytes], bytes] | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any], device_name: str) -> "Restorer":
        """The one that a configuration describes.

        Args:
            settings: plain, the `inpainter` in them chosen.
            device_name: as of `inpainting.device`.

        Raises:
            OSError: if there is no such model.
            ValueError: for a setting that no picture could be restored with, or credentials that cannot sign.
        """
        cfg = OmegaConf.create(dict(settings))
        if type(cfg.detail) is not int or cfg.detail < 1:
            raise ValueError(f"detail={cfg.detail} must be pixels of a square's side, such as 256, 512 or 1024")
        if cfg.num_samples < 1:
            raise ValueError(f"no completion was asked for: num_samples must be 1 or more, got {cfg.num_samples}")
        align = OmegaConf.to_container(cfg.align) if OmegaConf.is_config(cfg.align) else cfg.align
        align = "off" if align is False else align  # as YAML reads it
        photo.eyes_of(align)
        signer = credentials.named(cfg.credentials.chain, cfg.credentials.key)
        model = cascade.load(cfg.inpainter).to(device(device_name))
        if cfg.attributes:
            model.attributes(cfg.attributes)
        return cls(
            model,
            instantiate(cfg.get("sampler")),
            tuple(range(cfg.seed, cfg.seed + cfg.num_samples)),
            align,
            cfg.mask_mode,
            cfg.detail,
            cfg.feather,
            cfg.attributes,
            None if signer is None else partial(signer.signed, model=version_of(Path(cfg.inpainter))),
        )

    @property
    def crop(self) -> Crop:
        """That the model was trained on."""
        return named(self.model.recipe["data"]["crop"])

    def __call__(self, image: Path, mask: Path | None, output: Path, film: Path | None = None) -> Made:
        """Restores one picture; each file is written whole or not at all.

        Args:
            image: its file.
            mask: file of its hole; None for a task without one.
            output: a ``.png``; with several seeds ``-<seed>`` is put before the suffix.
            film: a ``.gif`` or ``.webp`` of how it came about, likewise; None makes none.

        Raises:
            OSError: if a file cannot be read or written.
            ValueError: if a picture or its mask are none, or do not fit.
        """
        picture = as_rgb(opened(image, "image"))
        eyes = photo.eyes_of(self.align, picture.size)
        hole = None if mask is None else as_mask(opened(mask, "mask"), self.mask_mode)
        cut = photo.cut(picture, hole, self.model.sides, self.crop, self.model.task, eyes, self.detail)
        said = [] if hole is None else told(cut, self.align, self.crop)
        steps = self.model.network_calls(self.sampler, cut.images.shape[-1])
        camera = None if film is None else Camera(cut, steps)
        look = None if camera is None else camera.look
        pictures = photo.fill(self.model, cut, self.seeds, self.sampler, self.feather, self.attributes, look)
        wrote = []
        for number, (seed, restored) in enumerate(zip(self.seeds, pictures, strict=True)):
            wrote.append(self._write(png(restored), output, seed))
            said.append(f"wrote {wrote[-1]} (seed {seed}, {steps * len(cut.parts)} network calls)")
            if camera is not None and film is not None:
                frames = camera.frames(number, restored)
                said.append(f"wrote {self._write(encoded(frames, film.suffix), film, seed)} ({len(frames)} frames)")
        return Made(tuple(wrote), tuple(said))

    def _write(self, made: bytes, path: Path, seed: int) -> Path:
        named = path if len(self.seeds) == 1 else path.with_stem(f"{path.stem}-{seed}")
        with replacing(named) as fresh:
            fresh.write_bytes(made if self.signed is None else self.signed(made))
        return named


def told(photo: Photo, align: Any, crop: Crop) -> list[str]:
    """What a person is told of the faces of a photo: one line for each in which something is filled."""
    if not crop.eyes:
        return [f"face: not looked for, the model's crop ({crop.name}) knows no eyes"]
    if photo.used:
        places = [" and ".join(f"({x:.0f}, {y:.0f})" for x, y in eyes) for eyes in photo.used]
        return [f"face: {'found' if align == 'auto' else 'given'}, eyes at {place}" for place in places]
    if photo.faces is None:
        return ["face: not looked for, filled without alignment"]
    if photo.faces:
        return [f"face: found, but not where the hole is ({len(photo.faces)} in all), filled without alignment"]
    return ["face: none found, filled without alignment"]


def restored(pictures: Sequence[Picture], output: Path, settings: Facts, make: Make, places: list[str]) -> list[Failed]:
    """Makes all pictures that are not made yet, and shows how far it is.

    Args:
        pictures: from `albums.listed`.
        output: their folder.
        settings: plain; all by which pictures differ, if not by their own files.
        make: makes what restores one, on a device.
        places: devices of the workers. One is this process; several have a process each.

    Returns:
        Those that failed; the others are made, whatever became of these.

    Raises:
        ValueError: if the folder holds pictures of other settings, or somebody else is at work there, or a worker
            cannot begin.
    """
    with held(output / ".restored.lock"):
        done = begun(output, settings)
        left = [picture for picture in pictures if not _is_made(picture, done, output)]
        if len(left) < len(pictures):
            print(f"{len(pictures) - len(left)} of {len(pictures)} pictures are made already, in {output}", flush=True)
        failed = []
        outcomes = (
            workers.alone(make, places[0], left) if len(places) == 1 else workers.side_by_side(make, places, left)
        )
        with _bar(len(left)) as bar, (output / RECORD).open("a") as record:
            for number, (picture, outcome) in enumerate(outcomes, start=1):
                if isinstance(outcome, Failed):
                    failed.append(outcome)
                    said = f"FAILED {picture.name}: {outcome.error}"
                else:
                    said = "; ".join(outcome.said)
                    files = [path.relative_to(output).as_posix() for path in outcome.files]
                    record.write(json.dumps({**picture.facts(), "wrote": files}) + "\n")
                    record.flush()
                bar.advance(bar.task_ids[0])
                if bar.disable or isinstance(outcome, Failed):
                    bar.console.print(f"{number}/{len(left)}  {said}", highlight=False, markup=False, soft_wrap=True)
        return failed


def begun(output: Path, settings: Facts) -> dict[str, Facts]:
    """The lines of the pictures that are made in a folder, by name; from now on it holds pictures of these settings.

    Raises:
        ValueError: if it holds those of others.
    """
    path = output / RECORD
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    facts = [_parsed(line) for line in lines]
    known = [fact for fact in facts if fact is not None]  # one that was cut is no fact
    wanted = json.loads(json.dumps(settings))
    if known and (before := known[0].get("settings")) != wanted:
        keys = [key for key in {**wanted, **(before or {})} if (before or {}).get(key) != wanted.get(key)]
        said = ", ".join(f"{key}={(before or {}).get(key)}, and now {wanted.get(key)}" for key in keys)
        raise ValueError(f"'{output}' holds pictures that were made with {said}: name another output")
    done: dict[str, Facts] = {fact["image"]: fact for fact in known[1:]}
    with replacing(path) as fresh:
        fresh.write_text("".join(json.dumps(fact) + "\n" for fact in [{"settings": wanted}, *done.values()]))
    return done


def _parsed(line: str) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError):
        return dict(json.loads(line))
    return None


def _is_made(picture: Picture, done: Mapping[str, Facts], output: Path) -> bool:
    fact = done.get(picture.name)
    if fact is None or {**picture.facts(), "wrote": fact["wrote"]} != fact:
        return False
    return all((output / name).is_file() for name in fact["wrote"])


def _bar(total: int) -> Progress:
    columns = (TextColumn("restoring"), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
    bar = Progress(*columns, disable=not sys.stdout.isatty())
    bar.add_task("", total=total)
    return bar


def run(cfg: DictConfig) -> None:
    """What the two scripts do.

    Raises:
        OSError: if a file is missing, or cannot be read or written.
        ValueError: for settings or pictures that cannot be restored; of many pictures, after the others are done.
    """
    image, output = Path(cfg.image), Path(cfg.output)
    mask = None if cfg.hole is None else Path(cfg.hole)
    many = image.is_dir() or albums.is_pattern(image)
    if not many and output.suffix.lower() != ".png":
        raise ValueError(f"output={output} must end in .png: another format would change the known pixels")
    film = None if cfg.film is None else Path(cfg.film)
    if film is not None and (many or film.suffix.lower() not in FORMATS):
        raise ValueError(f"film={film} must be a .gif or .webp, of one picture and not of a folder")
    folder = chosen(cfg.inpainter, cfg.paths.logs)
    settings: dict[str, Any] = {
        **OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True),  # type: ignore[dict-item]
        "inpainter": str(folder),
    }
    print(f"inpainter: {folder}", flush=True)
    make = partial(Restorer.of, settings)
    if not many:
        print("\n".join(make(cfg.device)(image, mask, output, film).said))
        return
    output = output.with_suffix("") if output.suffix.lower() == ".png" else output
    pictures = albums.listed(image, mask, output)
    facts = {key: value for key, value in settings.items() if key not in PLACES} | {"model": fingerprint(folder)}
    failed = restored(pictures, output, facts, make, workers.devices(cfg.device, cfg.workers))
    if failed:
        print("\n".join(f"{failure.picture.name}: {failure.error}" for failure in failed), file=sys.stderr)
        raise ValueError(
            f"{len(failed)} of {len(pictures)} pictures could not be restored, as it says above; the same call again "
            "tries these alone"
        )


def fingerprint(folder: Path) -> str:
    """Of a model's recipe and weights, which may be replaced under the same name; none of a folder that holds none."""
    whole = hashlib.sha256()
    for path in (folder / name for name in ("recipe.json", "model.safetensors")):
        if path.is_file():
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:16]
