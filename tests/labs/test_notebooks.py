"""Every notebook runs from its first cell to its last with the reference solutions, without a warning."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from diffusion_lab.labs import text

SHORTENED: Mapping[str, Mapping[str, str]] = {
    "1_diffusion": {"STEPS = 3000": "STEPS = 10", "TRAINING = 3000": "TRAINING = 120"},
    "2_ddpm": {"T = 400": "T = 40", "TRAINING = 1500": "TRAINING = 50", "BATCH = 32": "BATCH = 4"},
    "3_inpainting": {
        "STEPS, BATCH = 600, 32": "STEPS, BATCH = 10, 4",
        "    for t in range(60, 1000, 120)": "    for t in range(60, 1000, 480)",
        "def filled(network, image, mask, steps=20": "def filled(network, image, mask, steps=3",
        "COUNT = 24": "COUNT = 6",
        "slow = replace(repaint(steps=15, jump=5, resamples=3)": "slow = replace(repaint(steps=4, jump=2, resamples=2)",
        '    "Palette": lambda: filled(network, image, mask, steps=10': (
            '    "Palette": lambda: filled(network, image, mask, steps=3'
        ),
        "for _ in tqdm(range(400)": "for _ in tqdm(range(20)",
        "    rows.append(filled(network, face, top, steps=10": "    rows.append(filled(network, face, top, steps=3",
    },
    "4_deployment": {
        "SHORT, LONG, BATCH = 150, 600, 32": "SHORT, LONG, BATCH = 3, 20, 8",
        '    "sampler": {"_target_": "diffusion_lab.diffusion.samplers.ddim", "steps": 8': (
            '    "sampler": {"_target_": "diffusion_lab.diffusion.samplers.ddim", "steps": 3'
        ),
    },
}
"""What of each lab takes long, and what stands there where the figures do not matter."""

RUNS = [
    pytest.param(source, short, id=f"{source.stem}-{'short' if short else 'whole'}")
    for short in (True, False)
    for source in text.labs()
]


def printed(cell: dict[str, object]) -> str:
    """What a cell of an executed notebook wrote or displays, but for pictures."""
    outputs = cell.get("outputs", [])
    assert isinstance(outputs, list)
    displayed = [output.get("text", output.get("data", {}).get("text/plain", "")) for output in outputs]
    return "".join("".join(lines) for lines in displayed)


@pytest.mark.slow
@pytest.mark.parametrize(("source", "short"), RUNS)
def test_a_solved_notebook_runs_without_a_warning(
    source: Path, short: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In English: the code cells of the languages are the same (`test_labs_text`)."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    cells = text.shown(text.read(source.read_text(encoding="utf-8")), "en", solved=True)
    made = text.notebook(cells)
    for line, shorter in SHORTENED[source.stem].items() if short else ():
        before, after = (
            json.dumps(part, ensure_ascii=False)[:-1] for part in (line, shorter)
        )  # as the notebook has it
        assert made.count(before) == 1, line
        made = made.replace(before, after)
    notebook = nbformat.reads(made, as_version=4)
    nbclient.NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    found = json.loads(nbformat.writes(notebook))["cells"]
    if folder := os.environ.get("LABS_KEPT"):  # to look at the figures
        Path(folder, source.with_suffix(".ipynb").name).write_text(nbformat.writes(notebook), encoding="utf-8")
    wrote = "".join(map(printed, found))
    assert "Warning" not in wrote, wrote
    assert "\x1b[" not in wrote, "codes that move a cursor or colour a terminal"
    assert "✗" not in wrote
    solved = [cell.exercise for cell in cells if cell.exercise]
    assert all(f"✓ {number}" in wrote for number in solved)
    assert any(output["output_type"] == "display_data" for cell in found for output in cell.get("outputs", []))
