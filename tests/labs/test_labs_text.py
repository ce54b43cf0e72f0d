"""The labs' text: one source, two languages, the same code."""

import json
import re
from pathlib import Path

import pytest

from diffusion_lab.labs import text
from diffusion_lab.labs.__main__ import main

LABS = Path(__file__).parents[2] / "labs"
SOURCES = [pytest.param(path, id=path.stem) for path in text.labs()]


def code(path: Path) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("source", SOURCES)
def test_every_cell_of_prose_is_there_in_both_languages(source: Path) -> None:
    languages = [cell.language for cell in text.read(source.read_text(encoding="utf-8")) if cell.language]
    assert languages == ["en", "vi"] * (len(languages) // 2)


@pytest.mark.parametrize("source", SOURCES)
def test_the_code_of_both_languages_is_the_same_but_for_the_language_of_the_hints(source: Path) -> None:
    english, vietnamese = (code(LABS / language / f"{source.stem}.ipynb") for language in text.LANGUAGES)
    changed = [pair for pair in zip(english, vietnamese, strict=True) if pair[0] != pair[1]]
    assert [one.replace('LANGUAGE = "en"', 'LANGUAGE = "vi"') for one, _ in changed] == [other for _, other in changed]
    assert len(changed) == 1


@pytest.mark.parametrize("source", SOURCES)
def test_the_formulas_of_both_languages_are_the_same(source: Path) -> None:
    """So neither drifts, and no letter stands in them that the fonts of formulas do not have."""
    cells = text.read(source.read_text(encoding="utf-8"))
    formulas = {
        language: re.findall(
            r"\$\$.*?\$\$", "".join(cell.source for cell in cells if cell.language == language), re.DOTALL
        )
        for language in text.LANGUAGES
    }
    assert formulas["en"]
    assert formulas["en"] == formulas["vi"]
    assert all(formula.isascii() for formula in formulas["vi"])


QUESTIONS = [
    ("How long must I train?", "Phải huấn luyện bao lâu?", {"2", "3"}),
    ("When is it enough?", "Huấn luyện bao lâu thì đủ?", {"1"}),
    ("Why is my loss not falling?", "Vì sao loss không giảm?", {"2", "3"}),
    ("Why does my loss jump?", "Vì sao loss nhảy lên nhảy xuống?", {"1"}),
    ("Loss fine, samples are noise?", "Loss đẹp mà mẫu vẫn toàn nhiễu?", {"2"}),
    (
        "Validation is fine, but my test pictures come out as noise?",
        "Validation thì tốt mà ảnh test lại ra toàn nhiễu?",
        {"3"},
    ),
    ("shifted colours", "lệch màu", {"2"}),
    ("Why are the colours shifted?", "Vì sao màu bị lệch?", {"3"}),
    ("Can I use my own picture and mask?", "Dùng ảnh và mặt nạ của riêng mình được không?", {"3"}),
]
"""What beginners ask, in both languages, and the labs in which it is answered."""


@pytest.mark.parametrize(("english", "vietnamese", "where"), QUESTIONS)
def test_a_question_is_answered_in_the_same_place_of_both_languages(
    english: str, vietnamese: str, where: set[str]
) -> None:
    found: dict[str, set[tuple[str, int]]] = {"en": set(), "vi": set()}
    for source in text.labs():
        for language, question in (("en", english), ("vi", vietnamese)):
            cells = text.shown(text.read(source.read_text(encoding="utf-8")), language, solved=False)
            prose = [" ".join(cell.source.split()) for cell in cells]
            found[language] |= {(source.stem[0], i) for i, cell in enumerate(prose) if question in cell}
    assert found["en"] == found["vi"]
    assert {lab for lab, _ in found["en"]} == where


def test_the_terms_of_the_glossary_stand_in_the_labs_with_their_english_in_brackets() -> None:
    glossary = (LABS / "README.vi.md").read_text(encoding="utf-8").split("## Thuật ngữ")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+) \| (.+) \|$", glossary, re.MULTILINE)[1:]
    sources = [text.read(path.read_text(encoding="utf-8")) for path in text.labs()]
    prose = " ".join(" ".join(cell.source.split()) for cells in sources for cell in cells if cell.language == "vi")
    terms = [pair for ours, theirs in rows for pair in zip(ours.split(", "), theirs.split(", "), strict=True)]
    assert len(terms) > 20
    assert [pair for pair in terms if f"{pair[0]} ({pair[1]})" not in prose.lower()] == []


def test_the_notebooks_that_lie_there_are_those_of_the_sources(tmp_path: Path) -> None:
    """If not: ``uv run python -m diffusion_lab.labs build``."""
    assert main(["build", str(tmp_path)]) == 0
    for path in tmp_path.rglob("*.ipynb"):
        assert path.read_text(encoding="utf-8") == (LABS / path.relative_to(tmp_path)).read_text(encoding="utf-8")


def test_a_student_gets_docstrings_without_solutions() -> None:
    source = 'class A:\n    def __init__(self):\n        pass\n\n    def f(self):\n        "One."\n        return 1'
    assert text.emptied(source) == source.replace("return 1", "...")


def test_a_started_lab_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["start", str(tmp_path), "--language=vi", "--script"]) == 0
    assert main(["start", str(tmp_path), "--language=vi", "--script"]) == 1
    assert "is there already" in capsys.readouterr().err


def test_a_cell_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match=r"lang=.fr."):
        text.read('# %% [markdown] lang="fr"\n')
