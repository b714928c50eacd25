"""The files of a run, and where each of their values stands: name of the file, and a JSONPath (RFC 9535) in it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clinsynth.plain_yaml import read_yaml
from clinsynth.run_folder import read_json, read_metrics

IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True)
class Node:
    """A value in a file of the run.

    Attributes:
        file: its name, beginning with the name of the folder that the user gave.
        path: where the value stands in it, as "$.counts[0]"; "$" for all of it. The lines of a .jsonl file are a list.
        key: the last part of the path, as a name or a number from 0.
        holds: what `value` is: the "value" that stands there, the "name" under which it does, the "last part" of a
            path, or whether it "is given".
    """

    file: str
    path: str
    value: Any
    key: str = ""
    holds: str = "value"

    def find(self, path: str) -> list[Node]:
        """The values at `path`, as "privacy/copies/*/count"; none where nothing stands there."""
        found = [self]
        for part in path.split("/") if path else []:
            found = [child for node in found for child in node.children(part)]
        return found

    def children(self, part: str) -> Iterator[Node]:
        """What stands one step below, under the name or number `part`, or all of it for "*"."""
        items: dict[str, Any] = {}
        if isinstance(self.value, dict):
            items = self.value
        elif isinstance(self.value, list):
            items = {str(number): value for number, value in enumerate(self.value)}
        for name in items if part == "*" else [part] if part in items else []:
            yield Node(self.file, self.path + step(name, isinstance(self.value, list)), items[name], name)


def step(name: str, is_number: bool) -> str:
    """One step of a JSONPath."""
    if is_number:
        return f"[{name}]"
    if IDENTIFIER.fullmatch(name):
        return f".{name}"
    escaped = name.replace("\\", "\\\\").replace("'", "\\'")
    return f"['{escaped}']"


@dataclass
class Files:
    """The files that were read, by the names under which they are cited; `sha256` of each."""

    roots: dict[str, Path] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)

    def add_root(self, folder: Path, called: str = "") -> None:
        """A folder whose files are cited by names that begin with its own, or as it is `called`.

        Raises:
            ValueError: another folder of that name was given.
        """
        name = called or folder.resolve().name
        if self.roots.setdefault(name, folder.resolve()) != folder.resolve():
            raise ValueError(f"two folders are called {name}, so that their files cannot be told apart; rename one")

    def name_of(self, path: Path) -> str:
        """How a file is cited: by the nearest folder that was given, and the path below it."""
        path = path.resolve()
        inside = [(name, root) for name, root in self.roots.items() if path.is_relative_to(root)]
        if not inside:
            self.add_root(path.parent)
            return self.name_of(path)
        name, root = max(inside, key=lambda item: len(item[1].parts))
        return f"{name}/{path.relative_to(root).as_posix()}"

    def read(self, path: Path) -> list[Node]:
        """All that a .json, .yaml or .jsonl file holds, as one node; none where there is no such file.

        Raises:
            ValueError: it is damaged.
        """
        if not path.is_file():
            return []
        name = self.name_of(path)
        self.sha256[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return [Node(name, "$", read_values(path))]


def read_values(path: Path) -> Any:
    """The values of a file of a run."""
    if path.suffix == ".jsonl":
        return read_metrics(path.parent)
    return read_yaml(path) if path.suffix == ".yaml" else read_json(path)


def cite_json(name: str, values: dict[str, Any]) -> tuple[Node, bytes]:
    """A file that is about to be written as `name`: what it will hold, to be cited, and its content."""
    content = (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()
    return Node(name, "$", values), content
