"""results.json and its schema: what evaluate.py writes is taken, and nothing that is broken."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from diffusion_lab.evaluation.results import SCHEMA, mistakes, read
from reported import report


@pytest.fixture(scope="module")
def written() -> Any:
    return json.loads(report().json())


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(dict(SCHEMA))


def test_what_is_written_is_taken_and_is_the_same_report(tmp_path: Path, written: Any) -> None:
    (tmp_path / "results.json").write_text(json.dumps(written))
    assert [*Draft202012Validator(SCHEMA).iter_errors(written)] == []
    one, other, made = read(tmp_path), read(tmp_path / "results.json"), report()
    for found in (one, other):
        assert found.rows == made.rows
        assert found.protocol_sha256 == made.protocol_sha256
        assert (found.methods, found.pictures, found.areas) == (made.methods, made.pictures, made.areas)
        assert (found.uncertainty, found.recipe) == (made.uncertainty, made.recipe)


def put(value: Any, *path: Any) -> Callable[[Any], Any]:
    """Makes a document with another value in a place."""

    def change(document: Any) -> Any:
        place = document
        for key in path[:-1]:
            place = place[key]
        if value is GONE:
            del place[path[-1]]
        else:
            place[path[-1]] = value
        return document

    return change


GONE = object()
BROKEN: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no object": (lambda _: [], "it is [] and no object"),
    "nothing in it": (lambda _: {}, "it has no rows"),
    "no rows": (put([], "rows"), "rows has 0 entries"),
    "a figure in words": (put("low", "rows", 1, "lpips"), 'rows[1].lpips is "low" and no number or null'),
    "a method without a name": (put("", "rows", 0, "method"), 'rows[0].method is "", which cannot be'),
    "time that runs back": (put(-1, "rows", 0, "seconds_per_image"), "is -1, less than 0"),
    "half a call": (put(0.5, "rows", 0, "network_calls"), "rows[0].network_calls is 0.5 and no integer"),
    "no picture": (put(0, "protocol", "n"), "protocol.n is 0, less than 1"),
    "a protocol without pictures": (put(GONE, "protocol", "pictures_sha256"), "protocol has no pictures_sha256"),
    "a hash of other letters": (put("Z" * 64, "protocol_sha256"), "protocol_sha256 is"),
    "an interval with one end": (
        put([0.1], "uncertainty", 0, "intervals", "lpips"),
        "uncertainty[0].intervals.lpips has 1 entries",
    ),
    "a verdict of one's own": (
        put("splendid", "uncertainty", 1, "differences", "lpips", "verdict"),
        'uncertainty[1].differences.lpips.verdict is "splendid" and none of',
    ),
    "a picture without a figure": (
        put(None, "pictures", 0, "lpips", 3),
        "pictures[0].lpips[3] is null and no number",
    ),
    "true as a number": (put(True, "rows", 0, "fid"), "rows[0].fid is true and no number or null"),
}
CONTRADICTIONS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "another protocol": (put(1, "protocol", "seed"), "protocol_sha256 is not that of its protocol"),
    "a row twice": (
        lambda x: x | {"rows": [x["rows"][0], *x["rows"][:1], *x["rows"][2:]]},
        "two rows have the same mask and method",
    ),
    "rows that nobody saw": (
        lambda x: x | {"pictures": x["pictures"][:-1]},
        "the masks and methods of pictures are not those of rows",
    ),
    "pictures that are missing": (put([1.0] * 7, "pictures", 0, "fid"), "ddim_10 has 7 values of fid and 8 pictures"),
}


@pytest.mark.parametrize("name", [*BROKEN, *CONTRADICTIONS])
def test_what_is_broken_is_refused_in_a_sentence(tmp_path: Path, written: Any, name: str) -> None:
    change, sentence = (BROKEN | CONTRADICTIONS)[name]
    broken = change(copy.deepcopy(written))
    assert Draft202012Validator(SCHEMA).is_valid(broken) == (name in CONTRADICTIONS)
    (tmp_path / "results.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=re.escape(sentence)) as found:
        read(tmp_path)
    assert str(found.value).startswith(f"'{tmp_path / 'results.json'}' is not what evaluate.py writes: ")
    assert "\n" not in str(found.value)


LEAVES = (
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats(-2, 2) | st.text(max_size=3) | st.just([]) | st.just({})
)


@given(st.data())
def test_it_says_no_where_another_validator_does(written: Any, data: st.DataObject) -> None:
    """Something else in any place."""
    changed = copy.deepcopy(written)
    place: Any = changed
    while True:
        keys = [*place] if isinstance(place, dict) else [*range(len(place))]
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.integers(0, 3)) == 0:
            break
        place = place[key]
    if isinstance(place, dict) and data.draw(st.booleans()):
        del place[key]
    else:
        place[key] = data.draw(LEAVES)
    assert (not [*mistakes(changed)]) == Draft202012Validator(SCHEMA).is_valid(changed)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b'{"rows": NaN}', "is no JSON (NaN is no number in it)"),
        (b'{"rows": 1e999}', "is no JSON (1e999 is no number in it)"),
        (b"[" * 100_000, "is no JSON"),
        (b"null", "it is null and no object"),
    ],
    ids=["empty", "no text", "nan", "infinite", "deep", "null"],
)
def test_files_of_others_are_refused_in_a_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(sentence)) as found:
        read(path)
    assert str(path) in str(found.value)


@pytest.mark.parametrize("name", ["nowhere", ".", "link"])
def test_what_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "link").symlink_to("nothing")
    with pytest.raises(ValueError, match="cannot be read"):
        read(tmp_path / name)
