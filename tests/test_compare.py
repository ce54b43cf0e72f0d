"""One page of several evaluations: by protocol, and in pairs of the same pictures."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from diffusion_lab.bootstrap import interval
from diffusion_lab.evaluation import page
from diffusion_lab.evaluation.__main__ import labels, main
from diffusion_lab.evaluation.page.tables import between
from reported import report
from test_pages import HOSTILE, Read


class Tables(HTMLParser):
    """Of each table the label, and the runs and text of its rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[tuple[str, list[tuple[str | None, str]]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if said.get("class") == "scroll":
            self.tables.append((said["aria-label"] or "", []))
        if tag == "tr" and "data-method" in said:
            self.tables[-1][1].append((said.get("data-run"), ""))

    def handle_data(self, data: str) -> None:
        if self.tables and self.tables[-1][1]:
            run, text = self.tables[-1][1][-1]
            self.tables[-1][1][-1] = (run, f"{text} {data}")


def saved(folder: Path, **options: float | str) -> str:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(report(**options).json(), encoding="utf-8")  # type: ignore[arg-type]
    return str(folder)


def test_runs_of_one_protocol_share_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = saved(tmp_path / "a" / "evaluation"), saved(tmp_path / "b" / "evaluation", seed=1)
    assert main(["compare", one, f"{other}/results.json", f"--output={tmp_path / 'x.html'}"]) == 0
    assert capsys.readouterr().out == f"Wrote {tmp_path / 'x.html'}: 2 evaluations\n"
    text = (tmp_path / "x.html").read_text(encoding="utf-8")
    tables = Tables(text).tables
    assert [name for name, _ in tables] == ["Figures", "Against ddim_10 (a)", "Against ddim_10 (b)", "Between the runs"]
    assert [run for run, _ in tables[0][1]] == (["a"] * 3 + ["b"] * 3) * 2
    assert "do not compare" not in " ".join(Read(text).text("p")).replace("another hash do not compare", "")


def test_differences_between_runs_are_those_of_the_same_pictures() -> None:
    """A run that is better by .1 on each picture, but for its own scatter."""
    one, other = report(), report(seed=1, better=0.1)
    table = Tables(between({"one": one, "other": other})).tables[0][1]
    assert [run for run, _ in table] == ["other"] * 6
    for number, (_, text) in enumerate(table):
        apart = np.array(other.pictures[number]["lpips"]) - np.array(one.pictures[number]["lpips"])
        low, high = interval(apart)
        assert f"{apart.mean():+.4f} {low:+.4f} to {high:+.4f} better" in text


def test_a_run_against_itself_is_inconclusive() -> None:
    table = Tables(between({"one": report(), "other": report()})).tables[0][1]
    for _, text in table:
        assert "+0.0000 +0.0000 to +0.0000 inconclusive" in text
        assert not re.search("better|worse", text)


def test_rows_of_two_protocols_share_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [saved(tmp_path / "a"), saved(tmp_path / "b", seed=1), saved(tmp_path / "c", mask_set=2)]
    assert main(["compare", *paths, f"--output={tmp_path / 'x.html'}"]) == 0
    assert "they are of 2 protocols, whose figures do not compare" in capsys.readouterr().out
    text = (tmp_path / "x.html").read_text(encoding="utf-8")
    runs = [{run for run, _ in rows} for _, rows in Tables(text).tables]
    assert {"a", "b"} in runs
    assert all(of == {"c"} or "c" not in of for of in runs)
    told = " ".join(Read(text).text("p"))
    assert "These are 2 protocols: figures of different ones do not compare" in told
    assert "c from a in mask_set 1 against 2" in told


def test_runs_without_a_method_in_common_have_no_pairs() -> None:
    assert "there is nothing to pair" in between({"one": report(), "other": report(methods=["others"])})


def test_a_page_is_the_same_for_the_same_results_and_shows_every_figure() -> None:
    one = report(shown=4)
    text = page.written({"": one})
    assert text == page.written({"": report(shown=4)})
    assert "faces-inpainting-v1" in text
    assert one.protocol_sha256 in text
    buttons = [said for name, said in Read(text).tags if name == "button" and "title" in said]
    shown = [(said["title"], said.get("data-best")) for said in buttons]
    assert shown[:6] == [
        *(("fid", "low"), ("lpips", "low"), ("psnr", "high"), ("novel", None)),  # the last no table of ours knows
        *(("seconds_per_image", None), ("network_calls", None)),
    ]
    assert ">KID ↓<" not in text  # of which nobody has a value


def test_pictures_that_are_too_many_are_left_out_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds lose some, the page says how many, and the worst and the best stay."""
    whole = len(page.written({"": report(shown=8)})) - len(page.written({"": report()}))
    monkeypatch.setattr(page.pictures, "BYTES", whole // 2)
    text = page.written({"": report(shown=8)})
    left = int(re.findall(r"(\d+) pictures were left out", text)[0])
    kept = re.findall(r'data-name="(center|half), picture (\d)"', text)
    assert len(kept) + left == 16
    assert left > 4
    for number, kind in enumerate(("center", "half")):
        lpips = report().pictures[3 * number]["lpips"]
        assert {str(np.argmax(lpips)), str(np.argmin(lpips))} <= {index for of, index in kept if of == kind}


def test_names_cannot_break_out() -> None:
    """Not of methods, masks, runs, facts, nor of the model."""
    hostile = report(methods=[HOSTILE, "b"], kinds=[HOSTILE], shown=2, data=HOSTILE, inpainter=HOSTILE)
    for runs in ({"": hostile}, {HOSTILE: hostile, "other": report()}):
        found = Read(page.written(runs))
        assert [name for name, _ in found.tags].count("script") == 2
        assert all(not key.startswith("on") for _, said in found.tags for key in said)
    assert HOSTILE in found.text("th")[0] + "".join(found.text("span"))


@pytest.mark.parametrize("name", ["missing", "foreign.json", "shipped"])
def test_a_mistake_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (tmp_path / "foreign.json").write_text("{}")
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "results.json").write_text(json.dumps({"rows": [], "protocol": {}}))
    output = tmp_path / "x.html"
    assert main(["compare", saved(tmp_path / "a"), str(tmp_path / name), f"--output={output}"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: '")
    assert name in said
    assert said.count("\n") == 1
    assert not output.exists()


def test_an_evaluation_that_is_named_twice_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = saved(tmp_path / "a")
    assert main(["compare", one, f"{one}/results.json"]) == 1
    assert "is named twice" in capsys.readouterr().err


def test_labels_are_what_tells_paths_apart() -> None:
    assert labels([Path("x/evaluation")]) == ["evaluation"]
    assert labels([Path("logs/a/1/evaluation"), Path("logs/b/1/evaluation")]) == ["a", "b"]
    assert labels([Path("/r"), Path("/r/b")]) == ["r", "r/b"]
