"""Pictures that are broken, lie, or are meant to harm: all from a seed."""

import io
import random
import zlib
from collections.abc import Iterator
from functools import cache

import numpy as np
from PIL import Image

MODES = (
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "I;16",
)
MAGIC = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    b"RIFF\0\0\0\0WEBPVP8X",
    b"\0\0\0\x20ftypavif",
    b"GIF89a",
    b"%PDF-1.7",
    b"PK\3\4",
)
SECRET = b"4711 Hidden Lane"
"""Stands in the EXIF of those that have some."""


def small(mode: str = "RGB", size: tuple[int, int] = (24, 20)) -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    if mode in ("PA", "La", "RGBa"):
        return picture.convert("RGBA" if mode == "RGBa" else "LA").convert(mode)
    if mode == "I;16":
        return picture.convert("I").convert("I;16")
    if mode == "LAB":
        return Image.frombytes("LAB", size, pixels.tobytes())
    return picture.convert(mode)


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def png(width: int, height: int, data: bytes, bits: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    """A PNG that says what it likes of itself."""
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([bits, colour, 0, 0, 0])
    return MAGIC[0] + chunk(b"IHDR", head) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def every_mode_and_format() -> Iterator[tuple[str, bytes]]:
    Image.init()
    for kind in sorted(Image.SAVE):
        if kind in ("PDF", "PALM", "HEIF"):  # a document, and what only writes
            continue
        for mode in MODES:
            try:
                yield f"{mode} as {kind}", encoded(small(mode), kind)
            except Exception:  # there is no such file then
                continue


def damaged(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Cut off, overwritten, repeated and mixed at random places."""
    whole = {kind: encoded(small(size=(60, 40)), kind) for kind in ("PNG", "JPEG", "WEBP", "AVIF")}
    for kind, content in whole.items():
        for _ in range(8):
            yield f"{kind} cut", content[: rng.randrange(len(content))]
            bad = bytearray(content)
            for _ in range(rng.choice((1, 3, 20))):
                bad[rng.randrange(len(bad))] = rng.randrange(256)
            yield f"{kind} flipped", bytes(bad)
        at, other = rng.randrange(len(content)), whole[rng.choice(sorted(whole))]
        yield f"{kind} and another", content[:at] + other[at:]
        yield f"{kind} twice", content + content
    for magic in MAGIC:
        yield f"{magic[:4]!r} and noise", magic + rng.randbytes(300)
    yield from (("nothing", b""), ("a byte", b"\0"), ("zeros", bytes(1000)), ("noise", rng.randbytes(1000)))


def bombs() -> Iterator[tuple[str, bytes]]:
    """Small files of large pictures, or that say so."""
    for side in (1_100, 5_000, 40_000):  # a limit of a megapixel lies below all of them
        yield (
            f"a black PNG of {side}",
            png(side, side, zlib.compress(bytes((side // 8 + 1) * min(side, 5000)), 9), 1, 0),
        )
    few = zlib.compress(bytes(100))
    for width, height in ((2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (1, 2**31 - 1), (0, 0), (0, 5), (70_000, 70_000)):
        yield f"a PNG that claims {width}x{height}", png(width, height, few)
    yield "a PNG that holds more than it claims", png(2, 2, zlib.compress(bytes(20_000_000), 9))
    text = zlib.compress(b"0" * 50_000_000, 9)
    for kind, head in ((b"zTXt", b"k\0\0"), (b"iCCP", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0")):
        yield f"a PNG with a {kind.decode()} bomb", png(2, 2, zlib.compress(bytes(14)), extra=chunk(kind, head + text))
    jpeg, at = encoded(small(), "JPEG"), encoded(small(), "JPEG").index(b"\xff\xc0") + 5
    for height, width in ((65_500, 65_500), (0, 24), (20, 0), (65_535, 1)):
        said = height.to_bytes(2, "big") + width.to_bytes(2, "big")
        yield f"a JPEG that claims {width}x{height}", jpeg[:at] + said + jpeg[at + 4 :]
    webp = encoded(small("RGBA"), "WEBP", lossless=True)
    canvas = b"VP8X\x0a\0\0\0\x10\0\0\0" + (16_382).to_bytes(3, "little") * 2
    body = b"WEBP" + canvas + webp[12:]
    yield "a WebP that claims 16383x16383", b"RIFF" + len(body).to_bytes(4, "little") + body
    avif = encoded(small(), "AVIF")
    at = avif.index(b"ispe") + 8
    for side in (100, 30_000, 2**31):
        yield f"an AVIF that claims {side}", avif[:at] + side.to_bytes(4, "big") * 2 + avif[at + 8 :]
    yield "a JPEG of 1100x1100", encoded(Image.new("RGB", (1_100, 1_100)), "JPEG")
    yield "a WebP of 1100x1100", encoded(Image.new("RGB", (1_100, 1_100)), "WEBP")


def polyglots() -> Iterator[tuple[str, bytes]]:
    """Files that are two things at once."""
    plain, jpeg = encoded(small(), "PNG"), encoded(small(), "JPEG")
    script, archive = b"<script>alert(1)</script><?php system('id'); ?>", b"PK\3\4" + bytes(26) + b"PK\5\6" + bytes(18)
    for name, front in (("PNG", plain), ("JPEG", jpeg)):
        yield f"{name} and script", front + script
        yield f"{name} and zip", front + archive
        yield f"script and {name}", script + front
        yield f"PDF and {name}", b"%PDF-1.4\n" + front
    yield "GIF and script", b"GIF89a/*" + encoded(small("P"), "GIF")[8:] + b"*/=1;alert(1)"
    yield "SVG", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield "EPS", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n"
    yield (
        "a PNG with a script in its text",
        png(24, 20, zlib.compress(bytes(73 * 20)), extra=chunk(b"tEXt", b"a\0" + script)),
    )


def odd_exif(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Facts of a camera that are none."""
    for orientation in (0, 9, 255, 65_535):
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = orientation, SECRET.decode()
        for kind in ("JPEG", "PNG", "WEBP", "AVIF"):
            yield f"{kind} turned by {orientation}", encoded(small(), kind, exif=exif)
    heads = (b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"II*\0\0\0\0\0", b"II*\0\xff\xff\xff\xff")
    for head in heads:
        for count in (0, 1, 65_535):
            facts = b"Exif\0\0" + head + count.to_bytes(2, "little") + rng.randbytes(60)
            yield f"EXIF {head!r} of {count}", encoded(small(), "JPEG", exif=facts)
    loop = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\x08\0\0\0"  # the next directory is this one
    yield "EXIF that goes in circles", encoded(small(), "JPEG", exif=b"Exif\0\0" + loop)


def moving() -> Iterator[tuple[str, bytes]]:
    frames = [small().rotate(90 * i) for i in range(3)]
    for kind in ("GIF", "PNG", "WEBP", "AVIF", "TIFF", "MPO"):
        yield f"{kind} of three", encoded(frames[0], kind, save_all=True, append_images=frames[1:])


@cache
def corpus(seed: int = 0) -> dict[str, bytes]:
    """More than two hundred, by name; made when first asked for, which takes seconds."""
    rng = random.Random(seed)
    found: dict[str, bytes] = {}
    for many in (every_mode_and_format(), damaged(rng), bombs(), polyglots(), odd_exif(rng), moving()):
        for name, content in many:
            found[name if name not in found else f"{name} {len(found)}"] = content
    return found
