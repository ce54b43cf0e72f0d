import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from diffusion_lab.data.__main__ import main


def test_whole_folder_is_fine(make_celeba, capsys):
    assert main(["verify", str(make_celeba(20))]) == 0
    assert capsys.readouterr().out.startswith("20 of 20 pictures in ")


def test_bad_pictures_are_listed(make_celeba, capsys):
    root = make_celeba(20)
    for name in ("000004.jpg", "000010.jpg"):
        (root / "img_align_celeba" / name).write_bytes(b"<html>")
    assert main(["verify", str(root)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == ["000004.jpg", "000010.jpg"]
    assert lines[-1].startswith("18 of 20 pictures")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_picture_in_a_zip_is_listed(make_celeba, capsys, compression):
    root = make_celeba(20)
    pictures = sorted((root / "img_align_celeba").iterdir())
    with zipfile.ZipFile(root / "img_align_celeba.zip", "w", compression) as archive:
        for picture in pictures:
            archive.write(picture, f"img_align_celeba/{picture.name}")
        middle = archive.getinfo("img_align_celeba/000003.jpg").header_offset + 1000
    shutil.rmtree(root / "img_align_celeba")
    with (root / "img_align_celeba.zip").open("r+b") as file:
        file.seek(middle)
        file.write(bytes(100))
    assert main(["verify", str(root)]) == 1
    listed, summary = capsys.readouterr().out.splitlines()
    assert listed.startswith("000003.jpg: damaged in the zip file: ")
    assert summary.startswith("19 of 20 pictures")


def test_any_folder_of_pictures_will_do(make_celeba, capsys):
    pictures = make_celeba(10) / "img_align_celeba"
    (pictures / "000001.jpg").write_bytes(b"")
    assert main(["verify", str(pictures)]) == 1
    assert "000001.jpg: the file is empty" in capsys.readouterr().out


def test_links_to_nowhere_are_listed(make_celeba, capsys):
    pictures = make_celeba(10) / "img_align_celeba"
    (pictures / "000001.jpg").unlink()
    (pictures / "000001.jpg").symlink_to("gone.jpg")
    os.mkfifo(pictures / "pipe.jpg")
    assert main(["verify", str(pictures)]) == 1
    listed = capsys.readouterr().out
    assert "000001.jpg: it is a link to gone.jpg, which is not there" in listed
    assert "pipe.jpg: it is a pipe and no file" in listed


def test_pictures_in_an_encrypted_zip_are_listed(make_celeba, capsys):
    root = make_celeba(10)
    with zipfile.ZipFile(root / "img_align_celeba.zip", "w") as archive:
        for picture in sorted((root / "img_align_celeba").iterdir()):
            archive.write(picture, f"img_align_celeba/{picture.name}")
    shutil.rmtree(root / "img_align_celeba")
    content = bytearray((root / "img_align_celeba.zip").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the first entry of the directory says: encrypted
    content[content.index(b"PK\x03\x04") + 6] |= 1
    (root / "img_align_celeba.zip").write_bytes(content)
    assert main(["verify", str(root)]) == 1
    assert "encrypted" in capsys.readouterr().out.splitlines()[0]


def test_missing_folder_is_one_sentence(tmp_path, capsys):
    assert main(["verify", str(tmp_path / "nothing")]) == 1
    assert capsys.readouterr().err.strip() == f"There is no folder {tmp_path / 'nothing'} to read pictures from."


@pytest.mark.slow
def test_runs_as_a_module(make_celeba):
    command = [sys.executable, "-m", "diffusion_lab.data", "verify", str(make_celeba(10))]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
