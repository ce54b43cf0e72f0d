import errno
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffusion_lab.data.folder import Folder
from diffusion_lab.data.source import SPLITS


def fill(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def splits(root: Path, **options: object) -> dict[str, int]:
    source = Folder(root, **options)
    return {name: i for i, split in enumerate(SPLITS) for name in source.names(split)}


def test_finds_pictures_below_and_nothing_else(tmp_path):
    wanted = ["a.png", "sub, [1]/b.JPG", "sub/é/c.jpeg", "d.webp", "e.bmp", "f.avif", "IMG_1.HEIC", "g.tif", "h.tiff"]
    fill(tmp_path, [*wanted, "notes.txt", "._a.png", "mask.npy"])
    assert sorted(splits(tmp_path)) == sorted(wanted)


def test_split_is_about_eighty_ten_ten(tmp_path):
    fill(tmp_path, [f"{i}.png" for i in range(1000)])
    sizes = [list(splits(tmp_path).values()).count(i) for i in range(3)]
    assert sum(sizes) == 1000
    assert all(
        abs(size - share) < 4 * (share * (1 - share / 1000)) ** 0.5
        for size, share in zip(sizes, (800, 100, 100), strict=True)
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
@given(extra=st.sets(st.integers(0, 500), min_size=1, max_size=20))
def test_another_picture_moves_none(tmp_path_factory, extra):
    root = tmp_path_factory.mktemp("pictures")
    before = splits(fill(root, [f"{i}.png" for i in range(50)]))
    after = splits(fill(root, [f"{i}.png" for i in extra]))
    assert {name: after[name] for name in before} == before


def test_split_depends_on_the_seed_and_not_on_the_place(tmp_path):
    names = [f"{i}.png" for i in range(100)]
    here, there = fill(tmp_path / "here", names), fill(tmp_path / "there", names)
    assert splits(here) == splits(there)
    assert splits(here) != splits(here, seed=1)


def test_digest_follows_the_content(tmp_path):
    fill(tmp_path, ["a.png", "b.png"])
    digest = Folder(tmp_path).digest
    assert Folder(tmp_path).digest == digest
    assert Folder(tmp_path, shares=(1, 1, 1)).digest != digest
    (tmp_path / "a.png").write_bytes(b"changed")
    assert Folder(tmp_path).digest != digest


def test_no_pictures_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no pictures .* in .*; set data\.root .* data=faces\.$"):
        Folder(tmp_path).prepare()
    with pytest.raises(FileNotFoundError, match="no folder"):
        Folder(tmp_path / "missing").prepare()


@pytest.mark.parametrize("shares", [(0.9, 0.1), (0, 0, 0), (1, -1, 1)])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(ValueError, match=r"data\.shares"):
        Folder("anywhere", shares=shares)


def test_what_cannot_be_read_is_listed_like_the_rest(tmp_path):
    fill(tmp_path, ["a.png", "sub/b.png"])
    before = Folder(tmp_path).digest
    (tmp_path / "dangling.png").symlink_to("nowhere.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert sorted(splits(tmp_path)) == ["a.png", "dangling.png", "loop.png", "pipe.png", "sub/b.png"]
    broken = Folder(tmp_path).digest
    (tmp_path / "nowhere.png").write_bytes(b"mended")
    assert len({before, broken, Folder(tmp_path).digest}) == 3


def test_a_name_that_is_no_utf8(tmp_path):
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/n\xe9e.png")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system has UTF-8 alone")
    assert [os.fsencode(name) for name in splits(tmp_path)] == [b"n\xe9e.png"]
    assert Folder(tmp_path).digest


def test_a_folder_that_cannot_be_listed_is_warned_of(tmp_path, monkeypatch):
    fill(tmp_path, ["a.png", "shut/b.png"])
    scandir = os.scandir

    def refused(path):
        if str(path).endswith("shut"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.warns(UserWarning, match=r"shut cannot be listed \(Permission denied\): its pictures are left out"):
        assert list(splits(tmp_path)) == ["a.png"]
