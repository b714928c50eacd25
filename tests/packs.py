"""What the tests of evidence packs share: each number of a pack is looked up in the file that it cites."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clinsynth.hub.pack.pack import write_pack
from clinsynth.hub.pack.runs import read_folders
from clinsynth.plain_yaml import read_yaml
from clinsynth.private_words import without_paths

STEP = re.compile(r"\.(\w+)|\[(\d+)\]|\['((?:[^'\\]|\\.)*)'\]")
CONSTANT = re.compile(r"95 %|0\.5 is ideal|SHA-256|macro-F1")
"""Numbers of sentences that are no measurements."""


def make_pack(output_dir: Path, *folders: Path, identity: Any = None) -> tuple[dict[str, Any], dict[str, Path]]:
    """pack.json of these folders, and the folders that it cites by name."""
    run = read_folders(folders)
    output_dir.mkdir(exist_ok=True)
    write_pack(run, output_dir, identity)
    pack: dict[str, Any] = json.loads((output_dir / "pack.json").read_text(encoding="utf-8"))
    return pack, run.files.roots


def check_traced(pack: dict[str, Any], roots: dict[str, Path]) -> int:
    """How many values the pack cites; each of its numbers is one of them, and stands where it says."""
    for name, digest in pack["files"].items():
        assert hashlib.sha256(path_of(name, roots).read_bytes()).hexdigest() == digest, name
    statements = list(statements_of(pack))
    contents = {name: load(path_of(name, roots)) for name in pack["files"]}
    for one in statements:
        rest = one["text"]
        for cited in one["values"]:
            check_cited(cited, contents[cited["file"]])
            before, found, rest = rest.partition(cited["shown"])
            assert found and not re.search(r"\d", CONSTANT.sub("", before)), one["text"]
        assert not one["values"] or not re.search(r"\d", CONSTANT.sub("", rest)), one["text"]
    assert list(numbers_outside(pack)) == []
    return sum(len(one["values"]) for one in statements)


def check_cited(cited: dict[str, Any], content: Any) -> None:
    """What is cited is what stands there, or what may be told of it."""
    at, last = content, ""
    for name, number, quoted in STEP.findall(cited["path"]):
        last = name or number or re.sub(r"\\(.)", r"\1", quoted)
        at = at[int(number)] if number else at[last]
    if "name" in cited:
        assert cited["name"] == last
    elif "last part" in cited:
        assert at.rstrip("/").split("/")[-1] == cited["last part"]
    elif "is given" in cited:
        assert cited["is given"] is (at not in (None, "", [], {}))
    else:
        assert cited["value"] == without_paths(at), cited


def statements_of(part: Any) -> Iterator[dict[str, Any]]:
    """All statements, wherever they stand."""
    if isinstance(part, dict) and "status" in part:
        yield part
    elif isinstance(part, dict | list):
        for one in part.values() if isinstance(part, dict) else part:
            yield from statements_of(one)


def numbers_outside(part: Any) -> Iterator[float]:
    """Numbers of pack.json that are not cited."""
    if isinstance(part, dict) and "file" in part:
        return
    if isinstance(part, dict | list):
        for one in part.values() if isinstance(part, dict) else part:
            yield from numbers_outside(one)
    elif isinstance(part, int | float) and not isinstance(part, bool):
        yield part


def path_of(name: str, roots: dict[str, Path]) -> Path:
    root, _, rest = name.partition("/")
    return roots[root] / rest


def load(path: Path) -> Any:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return read_yaml(path) if path.suffix == ".yaml" else json.loads(path.read_text(encoding="utf-8"))
