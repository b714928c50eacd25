"""Where a sample comes from, written into the sample itself: a text chunk of a PNG file, columns of a Parquet file.

The chunk is a tEXt chunk (PNG specification, third edition, 11.3.3.2) of the keyword `clinsynth` that holds a JSON
object: synthetic, generator, revision, seed, and the IPTC digital source type. All other metadata is taken out.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator
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


def find_provenance(generation: dict[str, Any], folder: Path) -> Provenance:
    """The provenance that `generation`, the generation.json of the set in `folder`, tells; without a path."""
    from clinsynth.hub_cards.private_words import hub_id, last_part

    generator = generation["generator"]
    model = generator.get("model") or ""
    name = hub_id(model, folder) or last_part(model) or generator.get("network") or ""
    return Provenance(name, generator.get("weights_sha256") or "")


def mark_picture(picture: bytes, says: dict[str, Any]) -> bytes:
    """A picture file as PNG, pixel for pixel, without metadata except `says`.

    EXIF's orientation is applied to the pixels, as evaluation does not read it elsewhere.

    Raises:
        ValueError: it cannot be read, or cannot be a PNG file.
    """
    if not picture.startswith(SIGNATURE):
        picture = to_plain_png(picture)
    words = make_chunk(b"tEXt", KEYWORD + json.dumps(says).encode())
    if holds_pixels_alone(picture):
        return b"".join([picture[:BODY], words, picture[BODY:]])
    kept = [chunk for kind, chunk in read_chunks(picture) if kind in KEPT]
    return b"".join([SIGNATURE, kept[0], words, *kept[1:]])


def holds_pixels_alone(png: bytes) -> bool:
    """Whether a PNG file is IHDR, one IDAT and IEND, as small pictures are: their chunks need not be gone through."""
    size = int.from_bytes(png[BODY : BODY + 4], "big")
    return (
        png.startswith(HEAD)
        and png[BODY + 4 : BODY + 8] == b"IDAT"
        and len(png) == BODY + 12 + size + len(END)
        and png.endswith(END)
    )


def to_plain_png(picture: bytes) -> bytes:
    """A picture of another format as PNG.

    Raises:
        ValueError: it cannot be read, or has colours that PNG has not.
    """
    from PIL import Image, ImageOps

    from clinsynth.pictures import to_png

    try:
        return to_png(ImageOps.exif_transpose(Image.open(io.BytesIO(picture))))
    except OSError as error:
        raise ValueError(f"a picture cannot be brought to PNG ({error}); save it as PNG, grey or RGB") from error


def make_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def read_chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and whole bytes of each chunk of a PNG file up to its end; what follows the end is passed over.

    Raises:
        ValueError: it is cut short.
    """
    place, kind = len(SIGNATURE), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", png, place) if place + 8 <= len(png) else (0, b"")
        end = place + 12 + length
        if not kind or end > len(png):
            raise ValueError("a PNG picture is cut short; generate its shard again")
        yield kind, png[place:end]
        place = end


def read_picture(png: bytes) -> dict[str, Any] | None:
    """What `mark_picture` wrote; None where it wrote nothing, or where it is no PNG file."""
    if not png.startswith(SIGNATURE):
        return None
    for kind, chunk in read_chunks(png):
        if kind == b"tEXt" and chunk[8:].startswith(KEYWORD):
            says: dict[str, Any] = json.loads(chunk[8 + len(KEYWORD) : -4])
            return says
    return None
