import contextlib
import errno
import multiprocessing
import os
import pickle
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab.data import cache
from diffusion_lab.data.cache import Pictures, build
from diffusion_lab.data.celeba import CelebA
from diffusion_lab.data.crops import center140, center148, ddim128, full
from diffusion_lab.data.decoding import decode
from diffusion_lab.data.folder import Folder
from patience import PATIENCE


def make(root: Path, folder: Path, split: str = "train", size: int = 16) -> Pictures:
    return Pictures(build(CelebA(root), split, center148(), size, folder))


def test_holds_what_pil_makes_of_each_picture(make_celeba, tmp_path):
    root = make_celeba(20)
    pictures, source = make(root, tmp_path / "cache"), CelebA(root)
    assert (pictures.images.shape, pictures.images.dtype) == ((16, 3, 16, 16), torch.uint8)
    assert pictures.names == source.names("train")
    for image, name in zip(pictures.images, pictures.names, strict=True):
        square = decode(source.read(name)).crop((15, 35, 163, 183)).resize((16, 16), Image.Resampling.LANCZOS)
        assert np.array_equal(image.numpy().transpose(1, 2, 0), square)


def test_indexing_copies_the_pictures_of_those_indices(make_celeba, tmp_path):
    pictures = make(make_celeba(20), tmp_path / "cache")
    batch = pictures[torch.tensor([3, 0, 3])]
    assert torch.equal(batch, torch.stack([pictures.images[i] for i in (3, 0, 3)]))
    assert torch.equal(pictures[[5]], pictures.images[5:6])
    before = pictures.images.clone()
    batch.zero_()
    assert torch.equal(pictures.images, before)


def test_key_is_all_that_shapes_it(make_celeba, tmp_path, monkeypatch):
    root = make_celeba(20)
    source, folder = CelebA(root), tmp_path / "cache"
    made = [build(source, "train", crop, 8, folder) for crop in (center140(), center148(), ddim128(), full())]
    made += [build(source, "train", full(), 16, folder), build(source, "valid", full(), 8, folder)]
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    made.append(build(source, "train", full(), 8, folder))
    os.utime(root / "img_align_celeba")
    made.append(build(CelebA(root), "train", full(), 8, folder))
    assert len({Pictures(each).digest for each in made}) == len(set(made)) == 8


def test_second_build_reads_nothing(make_celeba, tmp_path, monkeypatch):
    root = make_celeba(10)
    first = make(root, tmp_path / "cache")
    monkeypatch.setattr(CelebA, "read", lambda *_: pytest.fail("read again"))
    assert torch.equal(make(root, tmp_path / "cache").images, first.images)


def test_draws_no_bar_where_there_is_no_terminal(make_celeba, tmp_path, monkeypatch, capfd):
    """A notebook's kernel asks for colours, but no code that moves a cursor belongs in its cells."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    make(make_celeba(20), tmp_path / "cache")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("file", "fault"),
    [
        ("images.bin", "cut"),
        ("images.bin", "gone"),
        ("meta.json", "cut"),
        ("meta.json", "gone"),
        ("meta.json", "flipped"),
    ],
)
def test_a_damaged_cache_is_made_anew(make_celeba, tmp_path, file, fault):
    """But for a pixel that is another: to find it, all of a cache would have to be read."""
    root = make_celeba(20)
    made = make(root, tmp_path / "cache")
    whole, names, path = made.images.clone(), made.names, made.folder / file
    content = path.read_bytes()
    if fault == "gone":
        path.unlink()
    elif fault == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content.replace(b"000001", b"000009", 1))
    with pytest.warns(UserWarning, match="is damaged and is made anew"):
        again = make(root, tmp_path / "cache")
    assert torch.equal(again.images, whole)
    assert again.names == names
    assert [each.name for each in (tmp_path / "cache").iterdir() if each.is_dir()] == [made.folder.name]


def test_pickles_as_its_folder(make_celeba, tmp_path):
    pictures = make(make_celeba(20), tmp_path / "cache", size=64)
    data = pickle.dumps(pictures)
    assert len(data) < 1000
    assert torch.equal(pickle.loads(data).images, pictures.images)


CORRUPTIONS = {
    "cut": lambda whole: whole[: len(whole) // 2],
    "empty": lambda _: b"",
    "html": lambda _: b"<html>Quota exceeded</html>",
}


def tiny(root: Path, count: int) -> Path:
    """A folder with many pictures of one colour each, quick to make."""
    root.mkdir()
    for i in range(count):
        Image.new("RGB", (8, 8), (i % 256, i // 256, 7)).save(root / f"{i:04d}.png")
    return root


@pytest.mark.parametrize("corrupt", CORRUPTIONS.values(), ids=CORRUPTIONS.keys())
def test_one_corrupt_picture_in_two_thousand_becomes_its_neighbour(tmp_path, corrupt):
    source = Folder(tiny(tmp_path / "pictures", 2000), shares=(1, 0, 0))
    for name in ("1000.png", "1999.png"):
        file = source.root / name
        file.write_bytes(corrupt(file.read_bytes()))
    with pytest.warns(UserWarning, match=r"2 corrupt pictures .*'1000\.png': '1001\.png'"):
        pictures = Pictures(build(source, "train", full(), 8, tmp_path / "cache"))
    assert pictures.replaced == {"1000.png": "1001.png", "1999.png": "0000.png"}
    assert torch.equal(pictures.images[1000], pictures.images[1001])
    assert torch.equal(pictures.images[1999], pictures.images[0])
    assert pictures.images[:, 0, 0, 0].tolist()[:1000] == [i % 256 for i in range(1000)]


def make_dangling(file: Path) -> None:
    file.symlink_to("nowhere.png")


def make_loop(file: Path) -> None:
    file.symlink_to(file.name)


def make_device(file: Path) -> None:
    file.symlink_to("/dev/null")


def make_private(file: Path) -> None:
    file.write_bytes(b"whatever")
    file.chmod(0)


UNREADABLE = {
    "dangling link": (make_dangling, r"it is a link to nowhere\.png, which is not there"),
    "loop": (make_loop, "it is a link that leads back to itself"),
    "pipe": (os.mkfifo, "it is a pipe and no file"),
    "device": (make_device, "it is a device and no file"),
    "private": (make_private, "Permission denied"),
}


@contextlib.contextmanager
def not_root(*folders: Path) -> Iterator[None]:
    """Lets nobody's rights hold for a while, since root may read what it likes; the folders are nobody's then."""
    if os.geteuid() != 0:
        yield
        return
    for folder in folders:
        for each in (folder, *folder.rglob("*")):
            os.chown(each, 65534, -1, follow_symlinks=False)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_is_no_file_to_read_is_one_more_corrupt_picture(kind):
    make_odd, reason = UNREADABLE[kind]
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are root's alone
        os.chmod(place, 0o755)
        source = Folder(tiny(Path(place) / "pictures", 1000), shares=(1, 0, 0))
        (source.root / "0500.png").unlink()
        make_odd(source.root / "0500.png")
        cache = Path(place) / "cache"
        cache.mkdir()
        with (
            not_root(source.root, cache),
            pytest.warns(UserWarning, match=r"1 corrupt pictures .*'0500\.png': '0501\.png'"),
        ):
            pictures = Pictures(build(source, "train", full(), 8, cache))
        assert torch.equal(pictures.images[500], pictures.images[501])
        (source.root / "0003.png").write_bytes(b"")
        few = Folder(source.root, shares=(1, 0, 0))
        with not_root(source.root, cache), pytest.raises(OSError, match=rf"0003\.png .*; 0500\.png \({reason}\)"):
            build(few, "train", full(), 8, cache)


def test_too_many_corrupt_pictures_stop_the_build_and_are_listed(tmp_path):
    source = Folder(tiny(tmp_path / "pictures", 1000), shares=(1, 0, 0))
    for name in ("0003.png", "0500.png"):
        (source.root / name).write_bytes(b"")
    with pytest.raises(OSError, match=r"2 pictures .* where 1 \(0\.1 %\) may be; .* 0003\.png .*; 0500\.png"):
        build(source, "train", full(), 8, tmp_path / "cache")
    assert list((tmp_path / "cache").glob("*/")) == []
    for name in source.names("train")[:40]:
        (source.root / name).write_bytes(b"")
    with pytest.raises(OSError, match=r"41 pictures .*0019\.png \(the file is empty\) and 21 more\.$"):
        build(source, "train", full(), 8, tmp_path / "cache")


def test_too_small_a_picture_is_not_corrupt_but_an_error(tmp_path):
    source = Folder(tiny(tmp_path / "pictures", 3), shares=(1, 0, 0))
    with pytest.raises(ValueError, match="center148 does not fit into a picture of 8x8"):
        build(source, "train", center148(), 8, tmp_path / "cache")


def test_no_pictures_in_a_split_is_one_sentence(tmp_path):
    source = Folder(tiny(tmp_path / "pictures", 1), shares=(1, 0, 0))
    with pytest.raises(ValueError, match=r"The valid split of pictures holds no pictures \(train 1, valid 0, test 0\)"):
        build(source, "valid", full(), 8, tmp_path / "cache")


def test_too_little_disk_is_said_before_anything_is_read(make_celeba, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage._replace(free=5 * 2**20))
    monkeypatch.setattr(CelebA, "read", lambda *_: pytest.fail("read"))
    with pytest.raises(OSError, match=r"needs 0\.01 GB .* 0\.01 GB are free; make room, or set paths\.cache"):
        make(make_celeba(20), tmp_path / "cache", size=400)


def test_disk_that_fills_up_meanwhile_is_one_sentence_and_leaves_nothing(make_celeba, tmp_path, monkeypatch):
    def no_space(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache.os, "pwrite", no_space)
    with pytest.raises(OSError, match=r"^The picture cache cannot be written to .*cache: No space left on device\.$"):
        make(make_celeba(20), tmp_path / "cache")
    assert list((tmp_path / "cache").glob("*/")) == []


class Interrupted(Folder):
    """A folder whose reading is interrupted after some pictures."""

    def read(self, name: str) -> bytes:
        if name.startswith("0050"):
            raise KeyboardInterrupt
        return super().read(name)


def test_interrupted_build_leaves_nothing_and_can_be_repeated(tmp_path):
    root = tiny(tmp_path / "pictures", 100)
    with pytest.raises(KeyboardInterrupt):
        build(Interrupted(root, shares=(1, 0, 0)), "train", full(), 8, tmp_path / "cache")
    assert list((tmp_path / "cache").glob("*/")) == []
    assert len(Pictures(build(Folder(root, shares=(1, 0, 0)), "train", full(), 8, tmp_path / "cache"))) == 100


class Slow(Folder):
    """A folder that takes its time over each picture, and notes in a file which process read which."""

    def __init__(self, root: Path, log: Path, seconds: float) -> None:
        super().__init__(root, shares=(1, 0, 0))
        self.log, self.seconds = log, seconds

    def read(self, name: str) -> bytes:
        with self.log.open("a") as lines:
            lines.write(f"{os.getpid()} {name}\n")
        time.sleep(self.seconds)
        return super().read(name)


def start_build(root: Path, folder: Path, log: Path, seconds: float) -> BaseProcess:
    """Build in a process of its own; forked, since a fresh one would import torch for seconds."""
    source = Slow(root, log, seconds)
    process = multiprocessing.get_context("fork").Process(target=build, args=(source, "train", full(), 8, folder))
    process.start()
    return process


def reader(log: Path, other_than: int = 0) -> int:
    """Waits until a process has begun to read, and returns its number."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        for line in log.read_text().splitlines() if log.exists() else ():
            if int(line.split()[0]) != other_than:
                return int(line.split()[0])
        time.sleep(0.05)
    pytest.fail("no process began to read")


forks = [
    pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]


class TestProcesses:
    pytestmark = forks

    def test_killed_build_leaves_no_cache_and_the_next_process_takes_over(self, tmp_path):
        root, folder, log = tiny(tmp_path / "pictures", 30), tmp_path / "cache", tmp_path / "log"
        processes = {
            process.pid: process for process in (start_build(root, folder, log, 2 * PATIENCE) for _ in range(2))
        }
        first = reader(log)  # it has the lock, the other one waits
        assert len(list(folder.glob("*.unfinished"))) == 1
        os.kill(first, signal.SIGKILL)
        second = reader(log, other_than=first)  # it has the lock now, and begins from the start
        os.kill(second, signal.SIGKILL)
        for process in processes.values():
            process.join()
        assert {first, second} == set(processes)
        made = build(Folder(root, shares=(1, 0, 0)), "train", full(), 8, folder)
        assert len(Pictures(made)) == 30
        assert [each for each in folder.iterdir() if each.is_dir()] == [made]  # what the killed ones left is gone

    def test_two_processes_at_once_make_one_cache(self, tmp_path):
        root, folder, log = tiny(tmp_path / "pictures", 40), tmp_path / "cache", tmp_path / "log"
        processes = [start_build(root, folder, log, 0.02) for _ in range(2)]
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0]
        assert sorted(line.split()[1] for line in log.read_text().splitlines()) == [f"{i:04d}.png" for i in range(40)]
        assert len([each for each in folder.iterdir() if each.is_dir()]) == 1


def _mean(pictures: Pictures, pipe: Connection) -> None:
    pipe.send(pictures.images.float().mean().item())


@pytest.mark.slow
def test_another_process_sees_the_same_pixels(make_celeba, tmp_path):
    pictures = make(make_celeba(20), tmp_path / "cache")
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_mean, args=(pictures, sender))
    process.start()
    assert receiver.poll(PATIENCE)
    assert receiver.recv() == pictures.images.float().mean().item()
    process.join()


@pytest.mark.slow
def test_two_thousand_faces_take_seconds(tmp_path):
    from diffusion_lab.data.celeba import built_in_faces

    began = time.process_time()  # what else the machine does is no matter
    build(CelebA(built_in_faces()), "train", center148(), 32, tmp_path)
    assert time.process_time() - began < 20
