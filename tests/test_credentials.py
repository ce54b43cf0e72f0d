"""Content credentials, read back by C2PA's own reader."""

import hashlib
import io
import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from diffusion_lab.credentials import Credentials, named
from diffusion_lab.pictures import png
from diffusion_lab.restoring.film import encoded as encoded_film
from small import small_inpainter

c2pa = pytest.importorskip("c2pa")

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519  # noqa: E402
from cryptography.hazmat.primitives.serialization import PrivateFormat  # noqa: E402

import certificates  # noqa: E402  it imports what comes with the extra

FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}


def photo() -> Image.Image:
    """A picture in which every pixel is its own."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))


def encoded(kind: str) -> bytes:
    stream = io.BytesIO()
    photo().save(stream, FORMATS[kind])
    return png(photo()) if kind == "png" else stream.getvalue()


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def read(content: bytes, kind: str = "png", trusted: str = "") -> tuple[dict[str, Any], set[str], str]:
    """The manifest of a picture, the codes of what is wrong with it, and how the reader calls that in a word.

    `trusted` are certificates of authorities whom the reader knows.
    """
    context = c2pa.Context(c2pa.Settings.from_dict({"trust": {"user_anchors": trusted}} if trusted else {}))
    with c2pa.Reader(f"image/{kind}", io.BytesIO(content), context=context) as reader:
        found = json.loads(reader.json())
    wrong = {failure["code"] for failure in found["validation_results"]["activeManifest"]["failure"]}
    return found["manifests"][found["active_manifest"]], wrong, found["validation_state"]


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    key = certificates.new_key()
    return Credentials(certificates.written_chain(tmp_path, key), certificates.written_key(tmp_path, key))


@pytest.mark.parametrize("kind", FORMATS)
def test_what_a_picture_says_of_itself(credentials: Credentials, kind: str) -> None:
    before = encoded(kind)
    signed = credentials.signed(before, "faces@7")
    assert np.array_equal(pixels(signed), pixels(before))
    manifest, wrong, state = read(signed, kind)
    assert (wrong, state) == ({"signingCredential.untrusted"}, "Valid")  # nobody knows an authority of a day
    (generator,) = manifest["claim_generator_info"]
    assert (generator["name"], generator["version"]) == ("diffusion_lab", version("diffusion_lab"))
    assert manifest["signature_info"]["issuer"] == "A test"
    (before_it,) = manifest["ingredients"]
    assert before_it["relationship"] == "parentOf"
    (actions,) = [said["data"]["actions"] for said in manifest["assertions"] if said["label"] == "c2pa.actions.v2"]
    assert [action["action"] for action in actions] == ["c2pa.opened", "c2pa.edited"]
    assert actions[0]["parameters"]["ingredients"][0]["url"].endswith(before_it["label"])
    assert actions[1]["softwareAgent"] == {"name": "faces", "version": "7"}
    source = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
    assert actions[1]["digitalSourceType"] == source


def test_who_knows_the_authority_trusts_the_picture(credentials: Credentials, tmp_path: Path) -> None:
    chain = (tmp_path / "chain.pem").read_text()
    authority = chain[chain.rindex("-----BEGIN") :]
    assert read(credentials.signed(encoded("png"), "faces@7"), trusted=authority)[1:] == (set(), "Trusted")


def test_what_is_there_already_stays(credentials: Credentials) -> None:
    """The words in the metadata are for readers that know no C2PA."""
    before, after = (
        Image.open(io.BytesIO(content)) for content in (png(photo()), credentials.signed(png(photo()), "x"))
    )
    assert before.info == after.info


def test_a_model_out_of_no_registry_is_named_by_its_weights(credentials: Credentials) -> None:
    manifest, _, _ = read(credentials.signed(encoded("png"), "0123456789ab"))
    agent = manifest["assertions"][0]["data"]["actions"][1]["softwareAgent"]
    assert agent == {"name": "diffusion_lab", "version": "0123456789ab"}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_byte_that_is_altered_is_noticed(credentials: Credentials, kind: str) -> None:
    before = encoded(kind)
    signed = bytearray(credentials.signed(before, "faces@7"))
    middle = before[len(before) // 2 :][:16]  # pixels, in all three formats
    signed[signed.index(middle)] ^= 1
    _, wrong, state = read(bytes(signed), kind)
    assert (wrong, state) == ({"signingCredential.untrusted", "assertion.dataHash.mismatch"}, "Invalid")


def test_words_that_are_altered_are_noticed(credentials: Credentials) -> None:
    signed = credentials.signed(encoded("png"), "faces@7")
    forged = signed.replace(b"compositeWithTrained", b"compositeWithPainted")
    assert forged != signed
    assert read(forged)[2] == "Invalid"


def test_another_picture_cannot_take_them(credentials: Credentials) -> None:
    signed = credentials.signed(encoded("png"), "faces@7")
    start = signed.index(b"caBX") - 4
    end = start + 12 + int.from_bytes(signed[start : start + 4])
    other = png(photo().transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    head = 8 + 25  # the signature and the header
    assert signed[:start] == encoded("png")[:start]
    moved = other[:head] + signed[start:end] + other[head:]
    assert pixels(moved).shape == (40, 60, 3)
    assert "assertion.dataHash.mismatch" in read(moved)[1]


@pytest.mark.parametrize(
    ("make", "algorithm"),
    [
        (lambda: ec.generate_private_key(ec.SECP384R1()), "Es384"),
        (lambda: ec.generate_private_key(ec.SECP521R1()), "Es512"),
        (lambda: rsa.generate_private_key(65537, 2048), "Ps256"),
        (ed25519.Ed25519PrivateKey.generate, "Ed25519"),
    ],
)
def test_other_kinds_of_keys(tmp_path: Path, make: Callable[[], Any], algorithm: str) -> None:
    key = make()
    signing = Credentials(certificates.written_chain(tmp_path, key), certificates.written_key(tmp_path, key))
    manifest, wrong, state = read(signing.signed(encoded("png"), "faces@7"))
    assert manifest["signature_info"]["alg"] == algorithm
    assert (wrong, state) == ({"signingCredential.untrusted"}, "Valid")


def test_a_key_as_older_openssl_writes_it(tmp_path: Path) -> None:
    key = certificates.new_key()
    old = certificates.written_key(tmp_path, key, PrivateFormat.TraditionalOpenSSL)
    assert b"EC PRIVATE KEY" in old.read_bytes()
    Credentials(certificates.written_chain(tmp_path, key), old)


def test_from_several_threads(credentials: Credentials) -> None:
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda i: credentials.signed(encoded("png"), f"faces@{i}"), range(40)))
    for i, signed in enumerate(made):
        manifest, wrong, _ = read(signed)
        assert manifest["assertions"][0]["data"]["actions"][1]["softwareAgent"]["version"] == str(i)
        assert wrong == {"signingCredential.untrusted"}


def test_none_are_named() -> None:
    assert named(None, None) is None


def test_who_signs_nothing_imports_nothing() -> None:
    code = "import sys, diffusion_lab.serving.run; print({'c2pa', 'cryptography'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def bad(case: str, folder: Path) -> tuple[Path, Path]:
    """Two files that cannot sign."""
    key = certificates.new_key()
    if case == "curve":
        key = ec.generate_private_key(ec.SECP256K1())
    if case == "kind":
        key = x25519.X25519PrivateKey.generate()
    if case == "small":
        key = rsa.generate_private_key(65537, 1024)
    chain = certificates.written_chain(
        folder, key, reverse=case == "order", ended=case == "ended", mail=case != "purpose", alone=case == "alone"
    )
    private = certificates.written_key(folder, key)
    match case:
        case "no chain":
            chain.unlink()
        case "no key":
            private.unlink()
        case "folder":
            chain = folder
        case "other key":
            certificates.written_key(folder, certificates.new_key())
        case "password":
            certificates.locked_key(folder, key)
        case "swapped":
            chain, private = private, chain
        case "key is no key":
            private = chain
    return chain, private


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("no chain", "the certificates '.*chain.pem' cannot be read .No such file or directory.: name a PEM file"),
        ("no key", "the private key '.*key.pem' cannot be read .No such file or directory.: name a PEM file"),
        ("folder", "cannot be read .it is a folder and no file.: name a PEM file"),
        ("other key", "is not that of the first certificate of '.*': name two files that belong together"),
        ("order", "is not that of the first certificate of '.*': .* before those of its issuers"),
        ("swapped", "'.*key.pem' holds no certificates: name a PEM file"),
        ("key is no key", "'.*chain.pem' holds no private key: name a PEM file of one"),
        ("password", "has a password: take it away with openssl"),
        ("curve", "C2PA knows no signatures by the private key '.*': make one on the curve P-256"),
        ("kind", "C2PA knows no signatures by the private key '.*': make one on the curve P-256"),
        ("small", "cannot sign pictures .the certificate is invalid.: docs/serving.md"),
        ("ended", "cannot sign pictures .the certificate was not valid at time of signing.: docs/serving.md"),
        ("purpose", "cannot sign pictures .the certificate is invalid.: docs/serving.md"),
        ("alone", "cannot sign pictures .the certificate was self-signed.: docs/serving.md"),
    ],
)
def test_mistakes_are_one_sentence(case: str, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(ValueError, match=said) as caught:
        Credentials(*bad(case, tmp_path))
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    for line in private_lines(tmp_path):
        assert line not in str(caught.value) + caplog.text


def private_lines(folder: Path) -> list[str]:
    """The lines of a private key that are its own."""
    path = folder / "key.pem"
    return [line for line in path.read_text().splitlines() if "-" not in line] if path.is_file() else []


@pytest.mark.parametrize("given", [("chain.pem", None), (None, "key.pem")])
def test_one_file_is_half(given: tuple[str | None, str | None]) -> None:
    with pytest.raises(ValueError, match=r"name both credentials\.chain and credentials\.key"):
        named(*given)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
def test_the_lines_of_the_docs(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    makes, reads = (
        next(block for block in re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE) if word in block)
        for word in ("openssl req", "c2pa.Reader")
    )
    made, _, starts = makes.partition("uv run serve.py")
    assert "credentials.chain=chain.pem credentials.key=key.pem" in starts

    def run(lines: str) -> str:
        return subprocess.run(["bash", "-ec", lines], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    run(made)
    signing = Credentials(tmp_path / "chain.pem", tmp_path / "key.pem")
    (tmp_path / "filled.png").write_bytes(signing.signed(encoded("png"), "faces@7"))
    found = json.loads(run(reads.replace("uv run python", sys.executable)))
    assert found["validation_state"] == "Trusted"
    assert found["manifests"][found["active_manifest"]]["signature_info"]["issuer"] == "My service"


@pytest.mark.parametrize("missing", ["c2pa", "cryptography"])
def test_without_the_extra_it_says_so(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ValueError, match="uv sync --extra credentials"):
        named("chain.pem", "key.pem")


def test_the_key_shows_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        key = certificates.new_key()
        signing = Credentials(certificates.written_chain(tmp_path, key), certificates.written_key(tmp_path, key))
        signed = signing.signed(encoded("png"), "faces@7")
    assert "O=A test" in caplog.text
    lines = private_lines(tmp_path)
    assert len(lines) > 1
    for line in lines:
        assert line not in caplog.text + repr(signing) + repr(vars(signing))
        assert line.encode() not in signed
    assert key.private_numbers().private_value.to_bytes(32) not in signed


@pytest.mark.parametrize("film", ["gif", "webp"])
def test_a_film_is_signed_too(credentials: Credentials, film: str) -> None:
    frames = [photo(), photo().rotate(180), photo()]
    plain = encoded_film(frames, f".{film}")
    signed = credentials.signed(plain, "faces@7")
    shown = [Image.open(io.BytesIO(content)) for content in (plain, signed)]
    assert [len(list(ImageSequence.Iterator(one))) for one in shown] == [3, 3]
    for before, after in zip(*(ImageSequence.all_frames(one) for one in shown), strict=True):
        assert before.info.get("duration") == after.info.get("duration")
        assert np.array_equal(np.asarray(before.convert("RGB")), np.asarray(after.convert("RGB")))
    assert read(signed, film)[1:] == ({"signingCredential.untrusted"}, "Valid")


def test_what_the_command_line_makes_is_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_script: Callable[..., tuple[int, str, str]]
) -> None:
    """One picture with its film, and a folder by workers: each names the model, and has the pixels of a plain one."""
    monkeypatch.chdir(tmp_path)
    small_inpainter().save("small")
    Path("photos").mkdir()
    for name in ("a.png", "b.png"):
        photo().save(Path("photos", name))
    Image.fromarray(np.uint8(255) * (np.arange(60) > 30)[None].repeat(40, 0)).save("hole.png")
    key = certificates.new_key()
    chain, private = certificates.written_chain(tmp_path, key), certificates.written_key(tmp_path, key)
    signing = [f"credentials.chain={chain}", f"credentials.key={private}"]
    asked = ["mask=hole.png", "inpainter=small", "device=cpu"]
    for settings in (
        ["image=photos/a.png", "output=plain.png"],
        ["image=photos/a.png", "output=one.png", "film=one.gif", *signing],
        ["image=photos", "output=many", "workers=2", *signing],
    ):
        code, _, err = run_script("inpaint.py", *asked, *settings)
        assert code == 0, err
    weights = hashlib.sha256(Path("small/model.safetensors").read_bytes()).hexdigest()
    for path in (Path("one.png"), Path("one.gif"), Path("many/a.png"), Path("many/b.png")):
        manifest, wrong, state = read(path.read_bytes(), path.suffix[1:])
        assert (wrong, state) == ({"signingCredential.untrusted"}, "Valid")
        agent = manifest["assertions"][0]["data"]["actions"][1]["softwareAgent"]
        assert agent == {"name": "diffusion_lab", "version": weights[:12]}
        if path.suffix == ".png":
            assert np.array_equal(pixels(path.read_bytes()), pixels(Path("plain.png").read_bytes()))
    with pytest.raises(c2pa.C2paError):
        read(Path("plain.png").read_bytes())
    code, _, err = run_script("inpaint.py", *asked, "image=photos/a.png", f"credentials.chain={chain}")
    assert (code, err.count("\n")) == (1, 1)
    assert "name both credentials.chain and credentials.key" in err
