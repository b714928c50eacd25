"""Where a sample comes from, written into the sample itself: a text chunk of a PNG file, columns of a Parquet file.

The chunk is a tEXt chunk (PNG specification, third edition, 11.3.3.2) of the keyword `clinsynth` that holds a JSON
object: synthetic, generator, revision, seed, and the IPTC digital source type. All other metadata is taken out.
Generation writes both; publishing looks whether they are there and right, and writes them where they are not.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEAD = SIGNATURE + b"\x00\x00\x00\x0dIHDR"
BODY = 33  # bytes up to the end of IHDR, which comes first
END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
KEYWORD = b"clinsynth\x00"
KEPT = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"sBIT"}
"""What the pixels are read by; nothing of it can hold words."""
COLUMNS = ("synthetic", "generator", "revision")
"""What a row says besides its seed."""
pack_number = struct.Struct(">I").pack
read_head = struct.Struct(">I4s").unpack_from


@dataclass(frozen=True)
class Provenance:
    """What made the samples of a set.

    Attributes:
        generator: its id on the Hub, or the name of its folder.
        revision: the hash of its weights; empty where it is not known.
    """

    generator: str
    revision: str

    def of_row(self, seed: int | None) -> dict[str, Any]:
        """What one sample says."""
        says = {"synthetic": True, "generator": self.generator, "revision": self.revision, "seed": seed}
        return {**says, "digital_source_type": SOURCE_TYPE}

    def columns(self) -> dict[str, Any]:
        """What the columns of each row say."""
        return dict(zip(COLUMNS, (True, self.generator, self.revision), strict=True))

    def chunks(self, seeds: Iterable[int | None]) -> Iterator[bytes]:
        """The text chunk of each row; rows differ in the seed alone, so that what stands before it is hashed once."""
        before, after = json.dumps(self.of_row(0)).rsplit('"seed": 0', 1)
        head, tail = b"tEXt" + KEYWORD + f'{before}"seed": '.encode(), after.encode()
        hashed = zlib.crc32(head)
        for seed in seeds:
            rest = (b"null" if seed is None else b"%d" % seed) + tail
            size = pack_number(len(head) - 4 + len(rest))
            yield b"".join((size, head, rest, pack_number(zlib.crc32(rest, hashed))))


def find_provenance(generation: dict[str, Any], folder: Path) -> Provenance:
    """The provenance that `generation`, the generation.json of the set in `folder`, tells; without a path.

    Of a set that was begun before its samples said it, it is found as it would be at the beginning.
    """
    from clinsynth.private_words import hub_id, last_part

    if "provenance" in generation:
        return Provenance(**generation["provenance"])
    generator = generation["generator"]
    model = generator.get("model") or ""
    name = hub_id(model, folder) or last_part(model) or generator.get("network") or ""
    return Provenance(name, generator.get("weights_sha256") or "")


def mark_image(image: bytes, says: dict[str, Any]) -> bytes:
    """An image file as PNG, pixel for pixel, without metadata except `says`.

    EXIF's orientation is applied to the pixels, as evaluation does not read it elsewhere.

    Raises:
        ValueError: it cannot be read, or cannot be a PNG file.
    """
    return insert(image, make_chunk(b"tEXt", KEYWORD + json.dumps(says).encode()))


def insert(image: bytes, words: bytes) -> bytes:
    """`mark_image` of what the chunk `words` says."""
    if not image.startswith(SIGNATURE):
        image = to_plain_png(image)
    if holds_pixels_alone(image, 0, BODY, len(image)):
        return b"".join([image[:BODY], words, image[BODY:]])
    kept = [chunk for kind, chunk in read_chunks(image) if kind in KEPT]
    return b"".join([SIGNATURE, kept[0], words, *kept[1:]])


Unsign = Callable[[bytes], bytes]
"""From a PNG file to the one that was signed: the same where it has no signature."""


def as_it_is(png: bytes) -> bytes:
    """The file itself: where nothing is signed yet."""
    return png


def all_marked(data: bytes, ends: list[int], words: Iterable[bytes], unsign: Unsign = as_it_is) -> bool:
    """Whether each image file is just what `insert` makes of it: PNG, pixels, and its chunk of `words` alone.

    Args:
        data: the files, one behind the other.
        ends: the place before the first file, and the end of each.
        unsign: takes off the signature of a file that has one, or raises a `ValueError`.

    Raises:
        ValueError: a PNG file is cut short.
    """
    return all(
        is_marked_alone(data, start, end, chunk) or is_marked(data[start:end], chunk, unsign)
        for start, end, chunk in zip(ends, ends[1:], words, strict=False)
    )


def is_marked(image: bytes, words: bytes, unsign: Unsign = as_it_is) -> bool:
    """Whether one image file, without its signature, is just what `insert` makes of it.

    Raises:
        ValueError: a PNG file is cut short, or `unsign` refuses its signature.
    """
    bare = unsign(image)
    return bare.startswith(SIGNATURE) and insert(bare, words) == bare


def is_marked_alone(data: bytes, start: int, end: int, words: bytes) -> bool:
    """`is_marked` of data[start:end], as far as that is seen without going through its chunks."""
    return data.startswith(words, start + BODY) and holds_pixels_alone(data, start, start + BODY + len(words), end)


def holds_pixels_alone(data: bytes, start: int, place: int, end: int) -> bool:
    """Whether the PNG file in data[start:end] is IHDR, and from `place` on one IDAT and IEND, as of small images."""
    if place + 8 > end:
        return False
    size, kind = read_head(data, place)
    return (
        kind == b"IDAT"
        and place + 12 + size + len(END) == end
        and data.startswith(HEAD, start)
        and data.startswith(END, end - len(END))
    )


def to_plain_png(image: bytes) -> bytes:
    """An image of another format as PNG."""
    from PIL import Image, ImageOps

    from clinsynth.images import to_png

    try:
        return to_png(ImageOps.exif_transpose(Image.open(io.BytesIO(image))))
    except OSError as error:
        raise ValueError(f"an image cannot be brought to PNG ({error}); save it as PNG, grey or RGB") from error


def make_chunk(kind: bytes, data: bytes) -> bytes:
    return pack_number(len(data)) + kind + data + pack_number(zlib.crc32(kind + data))


def read_chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and whole bytes of each chunk of a PNG file up to its end; what follows the end is passed over.

    Raises:
        ValueError: it is cut short.
    """
    place, kind = len(SIGNATURE), b""
    while kind != b"IEND":
        length, kind = read_head(png, place) if place + 8 <= len(png) else (0, b"")
        end = place + 12 + length
        if not kind or end > len(png):
            raise ValueError("a PNG image is cut short; generate its shard again")
        yield kind, png[place:end]
        place = end


def read_mark(png: bytes) -> dict[str, Any] | None:
    """What `mark_image` wrote; None where it wrote nothing, or where it is no PNG file."""
    if not png.startswith(SIGNATURE):
        return None
    for kind, chunk in read_chunks(png):
        if kind == b"tEXt" and chunk[8:].startswith(KEYWORD):
            says: dict[str, Any] = json.loads(chunk[8 + len(KEYWORD) : -4])
            return says
    return None
