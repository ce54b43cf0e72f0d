import hashlib
import zipfile
from pathlib import Path

import pytest
import torch

from diffusion_lab.data import download, index
from diffusion_lab.data.celeba import CelebA, built_in_faces
from diffusion_lab.data.decoding import decode
from diffusion_lab.data.source import SPLITS


def zipped(root: Path) -> Path:
    """Turn the folder of pictures into the zip that CelebA publishes."""
    pictures = root / "img_align_celeba"
    with zipfile.ZipFile(root / "img_align_celeba.zip", "w") as archive:
        for file in sorted(pictures.iterdir()):
            archive.write(file, f"img_align_celeba/{file.name}")
            file.unlink()
    pictures.rmdir()
    return root


def test_partition_is_the_official_one(make_celeba):
    source = CelebA(make_celeba(20))
    source.prepare()
    assert [len(source.names(split)) for split in SPLITS] == [16, 2, 2]
    assert source.names("valid") == ["000009.jpg", "000019.jpg"]
    assert source.names("test") == ["000010.jpg", "000020.jpg"]


def test_zip_and_folder_hold_the_same_bytes(make_celeba):
    root = make_celeba(10)
    names = CelebA(root).names("train")
    unzipped = [CelebA(root).read(name) for name in names]
    archive = CelebA(zipped(root))
    assert [archive.read(name) for name in names] == unzipped


def test_lists_are_matched_by_name(make_celeba):
    source = CelebA(make_celeba(20, lists=True))
    assert source.identities("valid").tolist() == [1008, 1018]  # the file lists them backwards
    assert source.attribute_names == ("Smiling", "Young")
    assert source.attributes("test").tolist() == [[True, False], [True, False]]
    assert source.landmarks("test")[:, 0].tolist() == [[9, 111], [19, 111]]


def test_lists_that_are_not_there_are_none(make_celeba):
    source = CelebA(make_celeba(10))
    assert source.attributes("train") is None
    assert source.landmarks("train") is None
    assert source.identities("train") is None
    assert source.attribute_names == ()


def test_index_is_read_back_instead_of_the_lists(make_celeba, tmp_path, monkeypatch):
    root = make_celeba(20, lists=True)
    first = CelebA(root, index=tmp_path / "cache")
    names, identities = first.names("train"), first.identities("train")
    monkeypatch.setattr("diffusion_lab.data.celeba.parse", lambda _: pytest.fail("parsed again"))
    second = CelebA(root, index=tmp_path / "cache")
    assert second.names("train") == names
    assert torch.equal(second.identities("train"), identities)


def test_changed_list_is_parsed_again(make_celeba, tmp_path):
    root = make_celeba(20)
    before = CelebA(root, index=tmp_path / "cache")
    assert len(before.names("test")) == 2
    digest = before.digest
    lines = (root / index.PARTITION).read_text().splitlines()
    (root / index.PARTITION).write_text("".join(line[:-1] + "0 \n" for line in lines))
    after = CelebA(root, index=tmp_path / "cache")
    assert len(after.names("train")) == 20
    assert after.digest != digest


def test_built_in_faces_are_celeba_s_format():
    source = CelebA(built_in_faces(), name="built-in faces")
    source.prepare()
    assert [len(source.names(split)) for split in SPLITS] == [1600, 200, 200]
    assert decode(source.read("002000.jpg")).size == (178, 218)
    assert (built_in_faces() / "img_align_celeba.zip").stat().st_size <= 15e6


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda root: (root / "list_eval_partition.txt").unlink(), "list_eval_partition.txt"),
        (lambda root: zipped(root).joinpath("img_align_celeba.zip").unlink(), "neither img_align_celeba.zip nor"),
        (lambda root: (root / "img_align_celeba" / "000003.jpg").unlink(), "lacks 1 of the 20 pictures .* 000003.jpg"),
        (lambda root: _truncate(zipped(root) / "img_align_celeba.zip"), "half a download"),
        (lambda root: root.rename(root.with_name("elsewhere")), "no folder"),
    ],
)
def test_wrong_folder_gets_one_sentence_with_both_ways_on(make_celeba, damage, says):
    root = make_celeba(20)
    damage(root)
    with pytest.raises(OSError, match=says) as error:
        CelebA(root).prepare()
    message = str(error.value)
    assert str(root) in message
    assert "CelebA's site" in message
    assert "data=faces" in message
    assert "\n" not in message


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("line", ["000001.jpg 7", "000001.jpg zero", "000001.jpg", "<html> Quota exceeded"])
def test_list_of_something_else_is_refused(make_celeba, line):
    root = make_celeba(10)
    (root / index.PARTITION).write_text(line + "\n")
    with pytest.raises(ValueError, match=r"list_eval_partition\.txt"):
        CelebA(root).names("train")


def test_list_that_lacks_a_picture_is_refused(make_celeba):
    root = make_celeba(10, lists=True)
    (root / index.IDENTITIES).write_text("000001.jpg 5\n")
    with pytest.raises(ValueError, match=r"no line for '000002\.jpg'"):
        CelebA(root).names("train")


def test_unknown_split_is_named(make_celeba):
    with pytest.raises(ValueError, match="'validation'; the splits are train, valid, test"):
        CelebA(make_celeba(10)).names("validation")


def official(folder: Path) -> dict[str, tuple[str, str]]:
    return {file.name: ("id", hashlib.md5(file.read_bytes()).hexdigest()) for file in folder.iterdir()}


def test_download_fills_the_folder_once(make_celeba, tmp_path, monkeypatch):
    mirror = zipped(make_celeba(10, lists=True, folder="mirror"))
    monkeypatch.setattr(download, "official_files", lambda: official(mirror))
    source = CelebA(tmp_path / "new", download=True, mirror=mirror.as_uri())
    source.prepare()
    assert len(source.names("train")) == 8
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "new").iterdir()}
    CelebA(tmp_path / "new", download=True, mirror="file:///nowhere").prepare()  # nothing is missing any more
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "new").iterdir()} == times
    assert set(times) == {tmp_path / "new" / name for name in official(mirror)}  # no half files left behind


def test_download_of_something_else_is_refused_and_removed(make_celeba, tmp_path):
    mirror = make_celeba(10, folder="mirror")
    with pytest.raises(OSError, match="is not CelebA's"):
        download.fetch(tmp_path / "new", mirror.as_uri(), {index.PARTITION: ("id", "0" * 32)})
    assert list((tmp_path / "new").iterdir()) == []


def test_download_that_fails_says_so(tmp_path):
    with pytest.raises(OSError, match=r"cannot be downloaded .* data\.mirror"):
        download.fetch(tmp_path, "file:///nowhere", {index.PARTITION: ("id", "0" * 32)})


def test_never_downloads_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "fetch", lambda *_: pytest.fail("downloaded"))
    with pytest.raises(FileNotFoundError):
        CelebA(tmp_path / "nothing").prepare()


@pytest.mark.slow  # torchvision takes seconds to import
def test_official_files_are_those_that_the_index_reads():
    assert set(download.official_files()) == {"img_align_celeba.zip", *index.LISTS}
