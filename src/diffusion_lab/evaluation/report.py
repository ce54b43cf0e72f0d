"""What an evaluation leaves behind: results.json, results.md, grid.png, and a table on the screen."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from PIL import Image, ImageDraw, ImageFont
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from diffusion_lab.evaluation.gallery import Shown
from diffusion_lab.evaluation.memorisation import SHEET
from diffusion_lab.evaluation.tables import UNCERTAIN, Column, against, around, by_area, by_attribute, chosen, line
from diffusion_lab.files import replacing
from diffusion_lab.pictures import save_png, sheet
from diffusion_lab.protocol import digest
from diffusion_lab.recipe import flat


@dataclass(frozen=True)
class Report:
    """The figures of an evaluation, how they came about, and pictures to look at.

    Args:
        rows: one per kind and method, a kind being a mask, a degradation or both; the keys are those of
            `diffusion_lab.evaluation.loop.evaluate`.
        protocol: what must be known to compare the figures with others.
        examples: caption and pictures of each row of the grid: (3, H, W) in [-1, 1], truth, given, then the methods'.
        methods: names of the methods, in the order of those pictures.
        pictures: the figures of each picture, one entry per row, for comparisons in pairs.
        uncertainty: of each row, as `diffusion_lab.evaluation.uncertainty.uncertainties` has it.
        areas: figures by the area of the hole, as `diffusion_lab.evaluation.uncertainty.by_area` has them.
        gallery: pictures of each kind to look at.
        recipe: of the model, as `recipe.json` has it; None: there is no model, or nobody has said.
        attributes: figures by what faces are like, as `diffusion_lab.evaluation.uncertainty.by_attribute` has them.
        nearest: caption and pictures of the completions that are nearest to a training picture, as
            `diffusion_lab.evaluation.memorisation.SHEET` names them.
    """

    rows: Sequence[Mapping[str, Any]]
    protocol: Mapping[str, Any]
    examples: Sequence[tuple[str, Sequence[Tensor]]]
    methods: Sequence[str]
    pictures: Sequence[Mapping[str, Any]]
    uncertainty: Sequence[Mapping[str, Any]]
    areas: Sequence[Mapping[str, Any]]
    gallery: Sequence[Shown] = ()
    recipe: Mapping[str, Any] | None = None
    attributes: Sequence[Mapping[str, Any]] = ()
    nearest: Sequence[tuple[str, Sequence[Tensor]]] = ()

    @property
    def protocol_sha256(self) -> str:
        """Names the protocol: figures of two names do not compare."""
        return digest(self.protocol)

    def save(self, folder: Path) -> None:
        """Write grid.png, results.md, results.json and, if asked for, nearest.png, each whole; on one rank only."""
        save_png(self.grid(), folder / "grid.png")
        if self.nearest:
            save_png(_captioned(self.nearest, SHEET, self._side), folder / "nearest.png")
        with replacing(folder / "results.md") as fresh:
            fresh.write_text(self.markdown(), encoding="utf-8")
        with replacing(folder / "results.json") as fresh:
            fresh.write_text(self.json(), encoding="utf-8")

    def json(self) -> str:
        """What results.json holds; `results.schema.json` says what that is."""
        facts = {
            "rows": [dict(row) for row in self.rows],
            "protocol": dict(self.protocol),
            "protocol_sha256": self.protocol_sha256,
            **({} if self.recipe is None else {"recipe": dict(self.recipe)}),
        }
        head = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False).removesuffix("\n}")
        parts = [head]
        tables = {"uncertainty": self.uncertainty, "areas": self.areas, "attributes": self.attributes}
        for name, entries in (tables | {"pictures": self.pictures}).items():
            lines = (json.dumps(dict(entry), ensure_ascii=False, allow_nan=False) for entry in entries)
            parts.append(f'  "{name}": [\n    ' + ",\n    ".join(lines) + "\n  ]")  # a line per entry, not per number
        return ",\n".join(parts) + "\n}\n"

    def markdown(self) -> str:
        """The tables, the best of each mask kind in bold, and everything that has to stand beside them."""
        lines, tables = [f"# {self.title()}", ""], chosen(self.rows)
        for columns in tables:
            headings = ["mask", "method", *(self._heading(key, heading) for key, heading, _, _ in columns)]
            lines += [line(headings), line(["---", "---", *["---:"] * len(columns)])]
            for row, cells in zip(self.rows, self._cells(columns, "**{}**"), strict=True):
                lines.append(line([row["mask"], row["method"], *(" ".join(filter(None, cell)) for cell in cells)]))
            lines.append("")
        lines += [note + "\n" for note in self.notes()]
        lines += against(self.uncertainty, self.methods[0], tables)
        lines += by_area(self.areas, tables)
        lines += by_attribute(self.attributes, tables)
        if self.nearest:
            lines += ["![completions, and the training pictures that are nearest to them](nearest.png)", ""]
        lines += ["![truth, given and completed pictures](grid.png)", "", "| protocol | |", "|---|---|"]
        lines.append(line(["sha256", self.protocol_sha256]))
        lines += [line([key, str(value)]) for key, value in flat(self.protocol).items()]
        return "\n".join(lines) + "\n"

    def show(self, console: Console) -> None:
        """Print the tables and their notes."""
        kinds = [row["mask"] for row in self.rows]
        for number, columns in enumerate(chosen(self.rows)):
            title = self.title() if number == 0 else None
            table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))  # 80 columns
            table.add_column("mask", no_wrap=True)
            table.add_column("method", no_wrap=True)
            for key, heading, _, _ in columns:
                heading = self._heading(key, heading).replace(" ↓", "↓").replace(" ↑", "↑")
                table.add_column(heading, justify="right", no_wrap=True)
            for i, cells in enumerate(self._cells(columns, "[bold]{}[/bold]")):
                begins, ends = kinds[:i][-1:] != [kinds[i]], kinds[i + 1 : i + 2] != [kinds[i]]
                stacked = [
                    "\n".join(filter(None, (value, around and f"[dim]{around}[/dim]"))) for value, around in cells
                ]
                table.add_row(kinds[i] if begins else "", self.rows[i]["method"], *stacked, end_section=ends)
            console.print(table)
        for note in self.notes():
            console.print(note, style="dim", markup=False)

    def title(self) -> str:
        """How many pictures of which data."""
        facts = self.protocol
        crop, data, split = (f"{facts[key]} " if key in facts else "" for key in ("crop", "data", "split"))
        size = facts["image_size"]
        task = str(facts.get("task", "inpainting")).replace("_", "-").capitalize()
        return f"{task}: {facts['n']} {split}pictures: {data or 'unnamed data '}({crop}{size}x{size})"

    def notes(self) -> list[str]:
        """The sentences that a reader of the figures needs."""
        facts = self.protocol
        notes = []
        if facts["n"] < 2:
            notes.append("FID: there is none of a single picture.")
        elif facts["fid_biased"]:
            notes.append(
                f"* FID from {facts['n']} pictures is biased upwards (below 10,000): compare it at the same n only."
            )
        notes.append(
            f"FID against {facts['fid_reference_n']} real pictures ({facts['fid_reference']}); "
            f"{facts['extractor']}, {facts['resize']}. Mask set {facts['mask_set']}, seed {facts['seed']}."
        )
        if any(entry["intervals"] for entry in self.uncertainty):
            notes.append(
                f"±: half of the 95 % interval of a bootstrap over the {facts['n']} pictures, of this one training. "
                + (
                    f"{UNCERTAIN}: inconclusive, no difference from {self.methods[0]} on the same pictures beyond "
                    "chance."
                    if len(self.methods) > 1
                    else ""
                )
            )
        if published := facts.get("published"):
            notes.append(
                f"Holes and number of pictures are {published['name']}'s; its own figures are of "
                f"{published['pictures']}, with other draws of the random holes."
            )
        notes.append(f"Protocol {facts['name']}, sha256 {self.protocol_sha256[:16]}.")
        changed = facts["known_pixels_changed"]
        touched = "; ".join(f"{name} in {count} pictures" for name, count in changed.items())
        notes.append(
            f"Known pixels were CHANGED by {touched}." if changed else "Known pixels: unchanged by every method."
        )
        return notes

    def grid(self) -> Image.Image:
        """The examples as one picture: columns are truth, what is given and methods, rows pictures of each kind."""
        return _captioned(self.examples, ["truth", "given", *self.methods], self._side)

    @property
    def _side(self) -> int:
        return max(96, int(self.protocol["image_size"]))

    def _heading(self, key: str, heading: str) -> str:
        biased = key == "fid" and self.protocol["fid_biased"] and self.protocol["n"] > 1
        return heading.replace("FID", "FID*") if biased else heading

    def _cells(self, columns: Sequence[Column], best: str) -> list[list[tuple[str, str]]]:
        """Each row's values, the best of its mask kind wrapped in `best`, and each one's error."""
        table = []
        for row, uncertainty in zip(self.rows, self.uncertainty, strict=True):
            rivals = [each for each in self.rows if each["mask"] == row["mask"]]
            cells = []
            for key, _, form, more in columns:
                value = row[key]
                text = "-" if value is None else format(value, form)
                values = [each[key] for each in rivals if each[key] is not None]
                wins = more is not None and len(rivals) > 1 and values and value == (max if more else min)(values)
                cells.append((best.format(text) if wins else text, around(uncertainty, key, form)))
            table.append(cells)
        return table


def _captioned(rows: Sequence[tuple[str, Sequence[Tensor]]], columns: Sequence[str], side: int) -> Image.Image:
    """A sheet with a caption before each row."""
    body, font = sheet([row for _, row in rows], columns, side=side), ImageFont.load_default(12)
    margin = max(96, 12 + round(max(font.getlength(caption) for caption, _ in rows)))
    canvas = Image.new("RGB", (body.width + margin, body.height), "white")
    canvas.paste(body, (margin, 0))
    draw, step = ImageDraw.Draw(canvas), side + 4
    top = body.height - step * len(rows)  # below the head with the captions
    for i, (caption, _) in enumerate(rows):
        draw.text((margin - 6, top + i * step + side // 2), caption, fill="black", font=font, anchor="rm")
    return canvas


def machine(fabric: Fabric) -> dict[str, Any]:
    """Where and with what an evaluation ran."""
    cuda = fabric.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(fabric.device) if cuda else f"{fabric.device.type} ({platform.machine()})",
        "devices": fabric.world_size,
        "threads": torch.get_num_threads(),
        "versions": {
            name: version(name) for name in ("diffusion-lab", "torch", "torchmetrics", "opencv-python-headless")
        }
        | {"python": platform.python_version()},
    }
