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

from diffusion_lab.files import replacing
from diffusion_lab.pictures import save_png, sheet
from diffusion_lab.recipe import flat

_COLUMNS = (  # key, heading, format, whether more is better (None: neither)
    ("fid", "FID ↓", ".2f", False),
    ("lpips", "LPIPS ↓", ".4f", False),
    ("psnr", "PSNR ↑", ".2f", True),
    ("ssim", "SSIM ↑", ".3f", True),
    ("l1_hole", "L1 hole ↓", ".4f", False),
    ("colourfulness", "colour", ".1f", None),
    ("true_colourfulness", "true colour", ".1f", None),
    ("diversity", "diversity", ".4f", None),
    ("seconds_per_image", "s/pic", ".3f", None),
    ("network_calls", "calls", "d", None),
)


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
    """

    rows: Sequence[Mapping[str, Any]]
    protocol: Mapping[str, Any]
    examples: Sequence[tuple[str, Sequence[Tensor]]]
    methods: Sequence[str]
    pictures: Sequence[Mapping[str, Any]]

    def save(self, folder: Path) -> None:
        """Write grid.png, results.md and results.json, each whole or not at all; call it on one rank only."""
        save_png(self.grid(), folder / "grid.png")
        with replacing(folder / "results.md") as fresh:
            fresh.write_text(self.markdown(), encoding="utf-8")
        facts = {"rows": [dict(row) for row in self.rows], "protocol": dict(self.protocol)}
        head = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False).removesuffix("\n}")
        lines = ",\n".join(
            "    " + json.dumps(dict(each), ensure_ascii=False, allow_nan=False) for each in self.pictures
        )
        with replacing(folder / "results.json") as fresh:  # a line per row, not per number
            fresh.write_text(f'{head},\n  "pictures": [\n{lines}\n  ]\n}}\n', encoding="utf-8")

    def markdown(self) -> str:
        """The table, the best of each mask kind in bold, and everything that has to stand beside it."""
        headings = ["mask", "method", *(self._heading(key, heading) for key, heading, _, _ in self._columns())]
        lines = [f"# {self.title()}", "", _line(headings), _line(["---", "---", *["---:"] * len(self._columns())])]
        lines += [_line(cells) for cells in self._cells("**{}**")]
        lines += ["", *(note + "\n" for note in self.notes()), "![truth, given and completed pictures](grid.png)", ""]
        lines += ["| protocol | |", "|---|---|"]
        lines += [_line([key, str(value)]) for key, value in flat(self.protocol).items()]
        return "\n".join(lines) + "\n"

    def show(self, console: Console) -> None:
        """Print the table and its notes."""
        table = Table(title=self.title(), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))  # 80 columns
        table.add_column("mask", no_wrap=True)
        table.add_column("method", no_wrap=True)
        for key, heading, _, _ in self._columns():
            table.add_column(
                self._heading(key, heading).replace(" ↓", "↓").replace(" ↑", "↑"), justify="right", no_wrap=True
            )
        kinds = [row["mask"] for row in self.rows]
        for i, (_, *cells) in enumerate(self._cells("[bold]{}[/bold]")):
            begins, ends = kinds[:i][-1:] != [kinds[i]], kinds[i + 1 : i + 2] != [kinds[i]]
            table.add_row(kinds[i] if begins else "", *cells, end_section=ends)
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
        changed = facts["known_pixels_changed"]
        touched = "; ".join(f"{name} in {count} pictures" for name, count in changed.items())
        notes.append(
            f"Known pixels were CHANGED by {touched}." if changed else "Known pixels: unchanged by every method."
        )
        return notes

    def grid(self) -> Image.Image:
        """The examples as one picture: columns are truth, what is given and methods, rows pictures of each kind."""
        side = max(96, self.protocol["image_size"])
        body = sheet([row for _, row in self.examples], ["truth", "given", *self.methods], side=side)
        margin = 96
        canvas = Image.new("RGB", (body.width + margin, body.height), "white")
        canvas.paste(body, (margin, 0))
        draw = ImageDraw.Draw(canvas)
        step = side + 4
        top = body.height - step * len(self.examples)  # below the head with the captions
        for i, (caption, _) in enumerate(self.examples):
            middle = top + i * step + side // 2
            draw.text((margin - 6, middle), caption, fill="black", font=ImageFont.load_default(12), anchor="rm")
        return canvas

    def _columns(self) -> list[tuple[str, str, str, bool | None]]:
        """Those that the rows have: diversity was perhaps not asked for."""
        return [column for column in _COLUMNS if column[0] in self.rows[0]]

    def _heading(self, key: str, heading: str) -> str:
        biased = key == "fid" and self.protocol["fid_biased"] and self.protocol["n"] > 1
        return heading.replace("FID", "FID*") if biased else heading

    def _cells(self, best: str) -> list[list[str]]:
        """The rows as text, the best value of each mask kind wrapped in `best`."""
        table = []
        for row in self.rows:
            rivals = [each for each in self.rows if each["mask"] == row["mask"]]
            cells = [str(row["mask"]), str(row["method"])]
            for key, _, form, more in self._columns():
                value = row[key]
                text = "-" if value is None else format(value, form)
                values = [each[key] for each in rivals if each[key] is not None]
                wins = more is not None and len(rivals) > 1 and values and value == (max if more else min)(values)
                cells.append(best.format(text) if wins else text)
            table.append(cells)
        return table


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


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
