"""What other tools made stands in the table as if it had been made here, and is checked."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab.data.masks import center, rectangle
from diffusion_lab.evaluation import Method, Report, command, evaluate, export, folder, mean_fill, problems
from diffusion_lab.metrics import seam
from diffusion_lab.pictures import from_pil, to_pil
from diffusion_lab.tasks import inpainting
from test_evaluation import Faces, Pixels

PROBLEMS = problems(inpainting(), {"center": center, "a box, moved": rectangle})
CENTER = problems(inpainting(), {"center": center})
grey = Method("grey", lambda image, mask, seeds: torch.where(mask, 0.0, image))


def score(*methods: Method, asked: Any = PROBLEMS) -> Report:
    return evaluate(methods, Faces(), asked, extractor=Pixels(), batch_size=3, measures={"seam": seam})


def same(report: Report, one: int, other: int, kinds: int = 2) -> bool:
    """Whether two methods have the same figures, of all and of each picture."""
    accidental = ("method", "identity", "seconds_per_image")
    methods = len(report.methods)

    def known(row: int) -> list[Any]:
        entries = [entry for entries in (report.rows, report.pictures) for entry in [entries[row]]]
        return [{key: x for key, x in entry.items() if key not in accidental} for entry in entries]

    return all(known(kind * methods + one) == known(kind * methods + other) for kind in range(kinds))


def completed(place: Path, change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Path:
    """What a tool made of all exported pictures: `change` of a picture and its hole, as 8-bit pixels."""
    (place / "done").mkdir()
    for path in (place / "images").iterdir():
        with Image.open(path) as image, Image.open(place / "masks" / path.name) as mask:
            hole = torch.from_numpy(np.array(mask) == 255)[None]
            to_pil(change(from_pil(image), hole)).save(place / "done" / path.name)
    return place / "done"


def mean(image: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
    return mean_fill().fill(image[None], hole[None], torch.zeros(1).long())[0]


def test_what_is_exported_is_what_methods_are_given(tmp_path: Path) -> None:
    assert export(tmp_path, Faces(), PROBLEMS, 5) == 10
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert [name[:-21] for name in names] == [f"{kind}-{i:05d}" for kind in ("a_box_moved", "center") for i in range(5)]
    assert names == sorted(path.name for path in (tmp_path / "masks").iterdir())
    holes = PROBLEMS["center"].regions(32, torch.arange(5))
    for name, hole, truth in zip(names[5:], holes, Faces().images, strict=False):
        with Image.open(tmp_path / "images" / name) as image, Image.open(tmp_path / "masks" / name) as mask:
            assert (image.mode, mask.mode) == ("RGB", "L")
            assert np.array_equal(np.array(mask), hole[0].numpy() * np.uint8(255))
            shown = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        assert torch.equal(shown, torch.where(hole, 128, truth))


@pytest.mark.parametrize("n", [0, 9])
def test_what_is_not_there_cannot_be_exported(n: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"Cannot export {n} pictures: this split has 8; ask for 1 to 8"):
        export(tmp_path, Faces(), PROBLEMS, n)


def test_a_folder_of_means_equals_the_mean_fill(tmp_path: Path) -> None:
    export(tmp_path, Faces(), PROBLEMS)
    done = completed(tmp_path, mean)
    for path in [*done.iterdir()]:  # as tools rename what they write
        path.rename(done / f"out_{path.stem}_result.png")
    report = score(mean_fill(), folder("theirs", str(done)))
    assert same(report, 0, 1)
    assert report.protocol["known_pixels_changed"] == {}


def test_known_pixels_may_be_rounded_otherwise_and_no_more(tmp_path: Path) -> None:
    export(tmp_path, Faces(), CENTER)

    def nearly(image: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
        return mean(image, hole) + torch.where(hole, 0.0, 2 / 255)

    done = completed(tmp_path, nearly)
    report = score(mean_fill(), folder("theirs", str(done)), asked=CENTER)
    assert same(report, 0, 1, kinds=1)
    assert report.protocol["known_pixels_changed"] == {}
    path = next(path for path in done.iterdir() if path.name.startswith("center-00002"))
    with Image.open(path) as picture:
        pixels = np.array(picture)
    pixels[0, 0] = pixels[0, 0] ^ 64
    Image.fromarray(pixels).save(path)
    with pytest.raises(ValueError, match=r"theirs: '.*center-00002-.*' differs by 6[345] levels of 255 where"):
        score(folder("theirs", str(done)), asked=CENTER)


def test_a_folder_that_does_not_fit_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"theirs: there is no folder '.*nowhere' of completions"):
        folder("theirs", str(tmp_path / "nowhere"))
    export(tmp_path, Faces(), CENTER)
    done = completed(tmp_path, mean)
    first = min(done.iterdir())
    moved = problems(inpainting(), {"center": rectangle})
    with pytest.raises(ValueError, match=r"has no completion of the picture whose name ends in [0-9a-f]{16}, and 8 of"):
        score(folder("theirs", str(done)), asked=moved)
    Image.new("RGB", (16, 32)).save(first)
    with pytest.raises(ValueError, match=rf"theirs: '{re.escape(str(first))}' is 16x32 and the picture 32x32"):
        score(folder("theirs", str(done)), asked=CENTER)
    first.unlink()
    with pytest.raises(ValueError, match=f"whose name ends in {first.stem[-16:]}, and 7 of others"):
        score(folder("theirs", str(done)), asked=CENTER)


def test_a_folder_is_known_by_its_content(tmp_path: Path) -> None:
    export(tmp_path, Faces(), CENTER)
    done = completed(tmp_path, mean)
    before = folder("theirs", str(done)).identity
    assert folder("theirs", str(done)).identity == before
    Image.new("RGB", (32, 32)).save(min(done.iterdir()))
    assert folder("theirs", str(done)).identity != before


def tool(place: Path, body: str) -> str:
    """The line of a tool whose path has a blank; of its arguments the first is the image, the last the output."""
    place = place / "a tool"
    place.mkdir()
    (place / "tool.py").write_text(f"import shutil, sys, time\n{body}\n")
    return f"{sys.executable} -S '{place}/tool.py' --image={{image}} {{mask}} '{{output}}'"


COPY = "shutil.copy(sys.argv[1].removeprefix('--image='), sys.argv[3])"


def test_a_command_that_copies_fills_with_grey(tmp_path: Path) -> None:
    report = score(grey, command("copy", tool(tmp_path, COPY)), asked=CENTER)
    assert same(report, 0, 1, kinds=1)
    assert report.protocol["known_pixels_changed"] == {}


def test_a_command_is_shown_the_hole(tmp_path: Path) -> None:
    line = tool(tmp_path, "shutil.copy(sys.argv[2], sys.argv[3])")
    with pytest.raises(
        ValueError, match=r"mask: '.*output.png' differs by \d+ levels of 255 where the picture is known"
    ):
        score(command("mask", line), asked=CENTER)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("sys.exit('no\\nGPU is here')", r"t: '.*' failed with 1 and said: no GPU is here$"),
        ("sys.exit(3)", r"t: '.*' failed with 3 and said: nothing on stderr$"),
        ("", r"t: '.*' ended well and wrote no \{output\}: look at its arguments$"),
        ("open(sys.argv[3], 'w').write('no picture')", r"t=.*output.png"),
    ],
    ids=["failed", "failed silently", "wrote nothing", "no picture"],
)
def test_a_command_that_fails_says_why(tmp_path: Path, body: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        score(command("t", tool(tmp_path, body)), asked=CENTER)


def test_a_command_that_does_not_end_is_ended(tmp_path: Path) -> None:
    line = tool(tmp_path, "time.sleep(100000)")
    with pytest.raises(ValueError, match=r"t: '.*' took more than 0.5 s for a picture: give it more by timeout="):
        score(command("t", line, timeout=0.5), asked=CENTER)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("tool {mask} {output}", "says nowhere {image}"),
        ("tool {image} {mask}", "says nowhere {output}"),
        ("tool '{image} {output}", "cannot be read .No closing quotation."),
    ],
)
def test_a_command_that_cannot_work_is_told_at_once(line: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        command("t", line)


def test_a_tool_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"t: 'no-such-tool' cannot be started .No such file or directory.: name its"):
        score(command("t", "no-such-tool {image} {output}"), asked=CENTER)


def test_the_script_exports_and_takes_both_back(
    tmp_path: Path, run_script: Callable[..., tuple[int, str, str]]
) -> None:
    """On the model that comes with the package: a folder and a command of the same copies."""
    common = ["num_images=2", "~masks.free_form", "~masks.half", f"paths.logs={tmp_path}", "sampler=ddim"]
    code, out, err = run_script("evaluate.py", *common, f"export={tmp_path / 'out, [1]'}")
    assert code == 0, err
    assert "Wrote 2 pictures" in out
    line = tool(tmp_path, COPY).replace("'", '"')
    code, out, err = run_script(
        *("evaluate.py", *common, f"output={tmp_path / 'report'}", f"paths.cache={tmp_path / 'cache'}"),
        *("sampler.steps=2", "+baseline@baselines.copy=command", "baselines.copy.name=copy"),
        *(f"baselines.copy.line='{line}'", "+baseline@baselines.theirs=folder", "baselines.theirs.name=theirs"),
        f"baselines.theirs.root='{tmp_path / 'out, [1]' / 'images'}'",
    )
    assert code == 0, err
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    rows = {row["method"]: [row[key] for key in ("fid", "lpips", "psnr", "l1_hole")] for row in results["rows"]}
    assert rows["copy"] == rows["theirs"] != rows["mean fill"]
