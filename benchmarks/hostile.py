"""Files that were made to harm who reads them: huge when read, endless, lying, or not what their names say.

`hostile_files` yields them by kind; `python -m tests.bad_inputs` gives each to its readers.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MB = 1 << 20
LARGE = re.compile(" MB| GB|thousand|million| times")


def hostile_files(large: bool = True) -> Iterator[tuple[str, str, bytes]]:
    """Kind, ending, and content of each, with those whose making takes seconds or not."""
    for ending, kinds in (
        ("npz", NPZ),
        ("parquet", PARQUET),
        ("zip", ZIP),
        ("png", PNG),
        ("yaml", YAML),
        ("json", JSON),
    ):
        for kind, make in kinds.items():
            if large or not LARGE.search(kind):
                yield kind, ending, make()


def npz(header: bytes, body: bytes = b"", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An .npz whose arrays have this header and these bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for split in ("train", "val", "test"):
            for part in ("images", "labels"):
                content = b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header + body
                archive.writestr(f"{split}_{part}.npy", content)
    return file.getvalue()


def told(shape: str, descr: str = "|u1") -> bytes:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()


NPZ: dict[str, Callable[[], bytes]] = {
    "a header of a trillion images": lambda: npz(told("(1000000000000, 28, 28)")),
    "a header of negative images": lambda: npz(told("(-1, 28, 28)")),
    "a header whose product overflows": lambda: npz(told("(4294967296, 4294967296, 28)")),
    "a header of fewer images than there are": lambda: npz(told("(1, 28, 28)"), bytes(9999)),
    "a header of thirty-three axes": lambda: npz(told(str((1,) * 33))),
    "objects, which are pickles": lambda: npz(told("(3,)", "|O"), b"cos\nsystem\n(S'true'\ntR."),
    "a header that calls": lambda: npz(
        b"{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': ()}"
    ),
    "a header without an end": lambda: npz(b"{'descr': '|u1', 'shape': (" + b"1," * 4000),
    "a header deep in brackets": lambda: npz(b"(" * 9000 + b")" * 9000),
    "times": lambda: npz(told("(3,)", "<M8[ns]"), bytes(24)),
    "zeros that unpack to 2 GB": lambda: npz(told("(600000, 28, 28, 1)"), bytes(340 * MB)),
    "a member longer than it says": lambda: npz(told("(9, 28, 28)"), bytes(7056)).replace(b"\x90\x1b", b"\x00\x01"),
    "no arrays": lambda: zipped({"a.txt": b"x"}),
    "arrays called by paths": lambda: zipped({"../../train_images.npy": b"x", "/etc/x.npy": b"y"}),
}


def parquet(table: pa.Table, **settings: object) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **settings)
    return file.getvalue()


def repeated(text: str, rows: int) -> pa.Table:
    return pa.table({"text": pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), [text]), "label": ["a"] * rows})


PARQUET: dict[str, Callable[[], bytes]] = {
    "one text of a megabyte, 20,000 times": lambda: parquet(repeated("x" * MB, 20_000), compression="zstd"),
    "one text of a kilobyte, a million times": lambda: parquet(repeated("x" * 1024, 10**6), compression="zstd"),
    "a text of 200 MB": lambda: parquet(pa.table({"text": ["x" * 200 * MB], "label": ["a"]}), compression="zstd"),
    "images of 100 MB of nothing": lambda: parquet(
        pa.table({"image": [{"bytes": bytes(100 * MB), "path": None}] * 3, "label": [0] * 3}), compression="zstd"
    ),
    "ten thousand columns": lambda: parquet(pa.table({f"c{i}": [1] for i in range(10_000)})),
    "lists two hundred deep": lambda: parquet(pa.table({"text": nested(200), "label": ["a"]})),
    "no rows": lambda: parquet(pa.table({"text": pa.array([], pa.string())})),
    "a foot that is cut off": lambda: parquet(repeated("x", 9))[:-6],
    "a foot of garbage": lambda: b"PAR1" + bytes(99) + struct.pack("<I", 90) + b"PAR1",
    "a foot of four gigabytes": lambda: b"PAR1" + struct.pack("<I", 0xFFFFFFF0) + b"PAR1",
}


def nested(depth: int) -> pa.Array:
    column = pa.array([1])
    for _ in range(depth):
        column = pa.ListArray.from_arrays([0, 1], column)
    return column


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def link(target: str) -> bytes:
    """A .zip with a symbolic link in it."""
    file, info = io.BytesIO(), zipfile.ZipInfo("a/0.png")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(info, target)
    return file.getvalue()


ZIP: dict[str, Callable[[], bytes]] = {
    "a member of 600 MB of zeros": lambda: zipped({"a/0.png": bytes(600 * MB)}),
    "fifty thousand members": lambda: zipped({f"a/{i}.png": b"" for i in range(50_000)}),
    "paths out of the folder": lambda: zipped({"../../../tmp/x.png": b"x", "/tmp/y.png": b"y", "..\\z.png": b"z"}),
    "a link out of the folder": lambda: link("/etc/passwd"),
    "a zip in a zip in a zip": lambda: zipped({"a.zip": zipped({"b.zip": zipped({"c.png": b"x"})})}),
    "names that turn and are cut": lambda: zipped(
        {"a/\u202egnp.0": b"x", "a/x\x00.png": b"y", "a/" + "n" * 3000: b"z"}
    ),
    "a directory that lies": lambda: zipped({"a/0.png": b"x" * 99})[:-30] + bytes(30),
    "no end": lambda: zipped({"a/0.png": bytes(999)})[:40],
}


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(side: int, pixels: bytes, *more: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(pixels, 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(more) + body + chunk(b"IEND", b"")


PNG: dict[str, Callable[[], bytes]] = {
    "a side of 60,000 pixels": lambda: png(60_000, bytes(99)),
    "a side of two billion pixels": lambda: png(2**31 - 1, bytes(99)),
    "a side of nothing": lambda: png(0, b""),
    "pixels that end early": lambda: png(28, bytes(99)),
    "words that unpack to 100 MB": lambda: png(
        28, bytes(29 * 28), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 * MB)))
    ),
    "a length beyond the file": lambda: png(28, bytes(29 * 28))[:33] + struct.pack(">I", 2**31 - 1) + b"IDAT",
}

YAML: dict[str, Callable[[], bytes]] = {
    "aliases of aliases": lambda: (
        "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    ).encode(),
    "merges of merges": lambda: (
        "m0: &m0 {k: v}\n" + "".join(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}], k{i}: v}}\n" for i in range(1, 22))
    ).encode(),
    "a list that holds itself": lambda: b"a: &a [*a]\n",
    "lists a thousand deep": lambda: b"a: " + b"[" * 1000 + b"]" * 1000,
    "maps a thousand deep": lambda: "".join(f"{' ' * i}k:\n" for i in range(1000)).encode(),
    "an object of Python": lambda: b"a: !!python/object/apply:os.system ['true']\n",
    "a tag of nobody": lambda: b"a: !unknown {b: 1}\n",
    "a key twice": lambda: b"title: a\ntitle: b\n",
    "a key that is a list": lambda: b"? [a, b]\n: c\n",
    "two documents": lambda: b"a: 1\n---\nb: 2\n",
    "a NUL": lambda: b"a: \0\n",
    "a word of 5 MB": lambda: b"title: " + b"x" * 5 * MB,
    "a whole number of 9,999 digits": lambda: b"seed: " + b"9" * 9999,
    "a number with sixties": lambda: b"seed: " + b"1:" * 5000 + b"1\n",
    "bytes of no kind": lambda: bytes(range(128, 256)),
    "nothing": lambda: b"",
    "a list": lambda: b"- a\n- b\n",
}
JSON: dict[str, Callable[[], bytes]] = {
    "lists 100,000 deep": lambda: b"[" * 100_000,
    "a whole number of 9,999 digits": lambda: b'{"_class_name": ' + b"9" * 9999 + b"}",
    "a list": lambda: b"[1, 2]",
    "null": lambda: b"null",
    "parts that are null": lambda: json.dumps(dict.fromkeys(INDEX)).encode(),
    "parts that are lists": lambda: json.dumps({key: [] for key in INDEX}).encode(),
    "parts that are numbers": lambda: json.dumps(dict.fromkeys(INDEX, 3)).encode(),
    "parts of another library": lambda: json.dumps({key: ["os", "system"] for key in INDEX}).encode(),
    "a key twice": lambda: b'{"_class_name": "A", "_class_name": "B"}',
    "NaN": lambda: b'{"_class_name": NaN, "id2label": Infinity}',
    "a lone surrogate": lambda: b'{"_class_name": "\\ud800"}',
    "bytes of no kind": lambda: bytes(range(128, 256)),
    "nothing": lambda: b"",
}
INDEX = "_class_name _diffusers_version unet scheduler id2label".split()
