"""The configurations of sweeps beside each other, at any time, from local files alone."""

import json
from collections.abc import Sequence
from pathlib import Path

from diffusion_lab.evaluation.leaderboard.page import written
from diffusion_lab.evaluation.leaderboard.runs import Open as Open
from diffusion_lab.evaluation.leaderboard.runs import runs as runs
from diffusion_lab.evaluation.leaderboard.runs import unfinished as unfinished
from diffusion_lab.evaluation.leaderboard.standings import Board as Board
from diffusion_lab.evaluation.leaderboard.standings import boards as boards
from diffusion_lab.evaluation.leaderboard.tables import facts as facts
from diffusion_lab.evaluation.leaderboard.tables import markdown
from diffusion_lab.evaluation.leaderboard.tables import show as show
from diffusion_lab.files import replacing


def save(found: Sequence[Board], left: Sequence[Open], folder: Path, title: str) -> None:
    """Write leaderboard.html, .md and .json, each whole or not at all.

    Args:
        found: boards.
        left: runs that are not done.
        folder: for the files.
        title: of the page.
    """
    text = json.dumps([facts(board) for board in found], indent=1, ensure_ascii=False, allow_nan=False)
    files = {"html": written(title, found, left), "md": markdown(found, left), "json": f"{text}\n"}
    for kind, content in files.items():
        with replacing(folder / f"leaderboard.{kind}") as fresh:
            fresh.write_text(content, encoding="utf-8")
