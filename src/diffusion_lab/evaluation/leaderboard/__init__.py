"""The configurations of sweeps beside each other, at any time, from local files alone."""

import json
from collections.abc import Sequence
from pathlib import Path

from diffusion_lab.evaluation.leaderboard.standings import Board as Board
from diffusion_lab.evaluation.leaderboard.standings import boards as boards
from diffusion_lab.evaluation.leaderboard.standings import facts
from diffusion_lab.evaluation.leaderboard.standings import runs as runs
from diffusion_lab.evaluation.leaderboard.tables import markdown
from diffusion_lab.evaluation.leaderboard.tables import show as show
from diffusion_lab.files import replacing


def save(found: Sequence[Board], folder: Path) -> None:
    """Write leaderboard.md and leaderboard.json, each whole or not at all."""
    text = json.dumps([facts(board) for board in found], indent=1, ensure_ascii=False, allow_nan=False)
    for name, content in (("leaderboard.md", markdown(found)), ("leaderboard.json", f"{text}\n")):
        with replacing(folder / name) as fresh:
            fresh.write_text(content, encoding="utf-8")
