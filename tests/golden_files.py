"""What the commands write, as texts that are the same on any machine and can be read in a diff.

Numbers that are measured, hashes, versions, times and paths become a word each; all else stays as it is: keys, types,
order, words, file names, and numbers that were asked for.
"""

import difflib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import groupby
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent / "golden"
WRITE = "CLINSYNTH_WRITE_GOLDEN"
MOST_LINES = 60
"""Of a diff."""
WIDTH = 119
VOID = frozenset("area base br col hr img input link meta source wbr".split())
NUMBER = re.compile(r"(?<![\w.#])(?<!grade )[-−+±]?\d[\d,.]*(?<![,.])(?:e[-+]?\d+)?(?![\w])")
OF_PROCESSOR = frozenset("machine packages num_bytes chosen outcomes by_class best_model".split())
"""Keys whose values are measured, whatever they are."""
FORM_ALONE = frozenset("pairs closest".split())
"""Keys of values of which only keys and types are compared, of a list those of its first."""


def check(name: str, text: str) -> None:
    """Hold `text` against the golden file `name`, or write that file anew where CLINSYNTH_WRITE_GOLDEN is set.

    Raises:
        AssertionError: they differ; shows the lines that do.
    """
    path, text = GOLDEN / name, text.rstrip("\n") + "\n"
    if os.environ.get(WRITE):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    kept = path.read_text(encoding="utf-8") if path.exists() else ""
    if text != kept:
        found = difflib.unified_diff(kept.splitlines(), text.splitlines(), f"golden/{name}", "now", lineterm="", n=2)
        lines = [line[:300] for line in found]
        more = [f"… and {len(lines) - MOST_LINES} more lines"] if len(lines) > MOST_LINES else []
        raise AssertionError("\n".join([f"golden/{name} has changed:", *lines[:MOST_LINES], *more]))


def masked(text: str, folder: Path) -> str:
    """A string without paths of this machine, hashes and versions."""
    text = text.replace(f"{folder}/", "").replace(str(folder), ".")
    text = re.sub(r"(?<![.\w])[0-9a-f]{8,64}\b(\+changes)?", "HASH", text)
    return re.sub(r"\b\d+\.\d+\.\d+(\+\w+)?\b", "VERSION", text)


def file_tree(folder: Path) -> str:
    """Every file of a folder, a line each."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return "\n".join(sorted(masked(path, folder) for path in paths))


def normal_json(value: Any, folder: Path, exact: bool = False) -> str:
    """What was read from JSON, with a line for what fits one, and records of the same keys as a table.

    Args:
        folder: where paths begin.
        exact: keep floats; they were asked for.
    """
    return "\n".join(json_lines(plain_values(value, folder, exact), ""))


class Word(str):
    """What stands for a number, printed without quotes."""


def plain_values(value: Any, folder: Path, exact: bool) -> Any:
    """The value with words for what differs between machines."""
    if isinstance(value, dict):
        return {masked(key, folder): plain_value(key, inner, folder, exact) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain_values(inner, folder, exact) for inner in value]
    if isinstance(value, str) and not isinstance(value, Word):
        text = masked(value, folder)
        return re.sub(r"[-−+]?\d+\.\d+(e-\d+)?", "N", text) if " " in text and not exact else text
    return Word("float") if isinstance(value, float) and not exact else value


def plain_value(key: str, value: Any, folder: Path, exact: bool) -> Any:
    """The value of a key."""
    if key in OF_PROCESSOR:
        return Word("…")
    return form(value) if key in FORM_ALONE else plain_values(value, folder, exact)


def form(value: Any) -> Any:
    """Keys and types."""
    if isinstance(value, dict):
        return {key: form(inner) for key, inner in value.items()}
    return [form(inner) for inner in value[:1]] if isinstance(value, list) else Word(type(value).__name__)


def json_lines(value: Any, indent: str) -> Iterator[str]:
    """Lines of a value, broken where it does not fit one."""
    flat = indent + one_line(value)
    if len(flat) <= WIDTH or not is_nested(value):
        yield flat
        return
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    yield indent + opening
    rows = list(value.values()) if isinstance(value, dict) else value
    yield from table(value, f"{indent}  ") if is_table(rows) else parts(value, f"{indent}  ")
    yield indent + closing


def is_nested(value: Any) -> bool:
    """Whether it is worth several lines."""
    return isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value)
    )


def parts(value: dict[str, Any] | list[Any], indent: str) -> Iterator[str]:
    if isinstance(value, list):
        for inner in value:
            yield from json_lines(inner, indent)
        return
    for key, inner in value.items():
        first, *rest = json_lines(inner, indent)
        yield f"{indent}{key}: {first.lstrip()}"
        yield from rest


def is_table(rows: list[Any]) -> bool:
    """Whether these are several records, the first of which has most keys of the others."""
    return len(rows) > 2 and all(
        isinstance(row, dict) and row and len(set(row) & set(rows[0])) * 2 > len(row) for row in rows
    )


def table(value: dict[str, Any] | list[Any], indent: str) -> Iterator[str]:
    """Keys once, the values of a record in a line, and those that all have in the first; `-` where one lacks a key.

    Records that differ in their label alone are one line, with all labels in the place of the first.
    """
    named = list(value.items()) if isinstance(value, dict) else [("", row) for row in value]
    rows = [{key: one_line(inner) for key, inner in row.items()} for _, row in named]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    same = {key: rows[0][key] for key in keys if all(row.get(key) == rows[0].get(key) for row in rows)}
    yield f"{indent}all have {', '.join(f'{key}: {inner}' for key, inner in same.items()) or 'nothing in common'}"
    yield f"{indent}each of {', '.join(key for key in keys if key not in same)}:"
    lines: dict[str, list[str]] = {}
    for (name, _), row in zip(named, rows, strict=True):
        values = ["{label}" if key == "label" else row.get(key, "-") for key in keys if key not in same]
        line = " | ".join([name, *values] if name else values)
        lines.setdefault(line, []).append(row.get("label", ""))
    for line, labels in lines.items():
        count = "" if len(labels) == len(set(labels)) else f" … {len(labels)} times"
        yield indent + line.replace("{label}", ", ".join(dict.fromkeys(labels))) + count


def one_line(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {one_line(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list):
        runs = [(inner, len(list(same))) for inner, same in groupby(map(one_line, value))]
        return (
            f"[{', '.join(', '.join([inner] * count) if count < 4 else f'{inner} ×{count}' for inner, count in runs)}]"
        )
    return str(value) if isinstance(value, Word) else json.dumps(value, ensure_ascii=False)


def normal_page(text: str, folder: Path) -> str:
    """A page as its tags and words, indented as they are nested; end tags are left out where a line is broken.

    Raises:
        AssertionError: a tag is closed that is not open, or not closed.
    """
    reader = PageReader(folder)
    reader.feed(text)
    reader.close()
    assert len(reader.open) == 1, f"not closed: {[element.start for element in reader.open[1:]]}"
    page = "\n".join(line for element in reader.open[0].inside for line in page_lines(element, ""))
    return re.sub(r" *<dt>environment\.(?:packages\.\w+|machine)</dt>\n *<dd>.*</dd>\n", "", page)


@dataclass
class Element:
    """A tag with its attributes, and texts and elements in it."""

    tag: str
    start: str = ""
    inside: "list[Element | str]" = field(default_factory=list)

    def __str__(self) -> str:
        end = "" if self.tag in VOID else f"</{self.tag}>"
        return f"{self.start}{''.join(map(str, self.inside))}{end}"


def page_lines(element: Element | str, indent: str) -> Iterator[str]:
    """Lines of an element, broken where it does not fit one; equal ones that follow each other are counted."""
    flat = indent + str(element)
    if isinstance(element, str) or (len(flat) <= WIDTH and "\n" not in flat):
        yield from (indent + line.strip() for line in flat.splitlines() if line.strip())
        return
    yield indent + element.start
    for lines, same in groupby(element.inside, key=lambda inner: list(page_lines(inner, f"{indent}  "))):
        count = len(list(same))
        yield from lines
        if count > 1:
            yield f"{indent}  … {count} times"


class PageReader(HTMLParser):
    """Builds the elements of a page."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.open = folder, [Element("page")]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        words = "".join(
            f' {name}="{self.attribute(name, value)}"' if value else f" {name}" for name, value in attributes
        )
        element = Element(tag, f"<{tag}{words}>")
        self.open[-1].inside.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        element = self.open.pop()
        assert element.tag == tag, f"</{tag}> closes nothing in line {self.getpos()[0]}"
        if element.start == '<div class="pairs">':
            first = "".join(page_lines(element.inside[0], ""))
            element.inside = [re.sub(r"grade \d", "grade N", first)]

    def handle_data(self, data: str) -> None:
        if self.open[-1].tag in ("style", "script"):
            self.open[-1].inside.append(data)
        elif self.open[-1].tag == "blockquote":
            self.open[-1].inside.append("…")  # a text that a language model has written
        elif data.strip():
            self.open[-1].inside.append(self.words(" ".join(data.split())))

    def attribute(self, name: str, value: str) -> str:
        """Names as they are, all else without numbers and pictures."""
        if name in ("id", "href", "lang", "charset"):
            return value
        value = re.sub(r"(data:[\w/+-]+;base64,)[\w+/=]+", r"\1…", value)
        if name == "d":
            return re.sub(r"-?[\d.]+(?:[ ,]-?[\d.]+)*", "N", value)
        return re.sub(r"N(?:[ ,]+[A-Z]?N)+", "N …", self.words(value))

    def words(self, text: str) -> str:
        text = re.sub(r"\b[\w ]+ VERSION(?:, \w+ VERSION)+", "VERSIONS", masked(text, self.folder))
        return NUMBER.sub("N", text)


def normal_card(card: str, folder: Path) -> str:
    """A card without what differs between machines and releases: versions, hashes, times, measured numbers."""
    card = masked(card, folder)
    card = re.sub(r"(\*\*(?:machine|software|time)\*\* \|).*", r"\1 … |", card)
    card = re.sub(r"\d+\.\d+( nats| before)", r"N\1", card)
    card = re.sub(r"\| \*\*commit of clinsynth.*\n", "", card)
    card = re.sub(r"(num_bytes|download_size|dataset_size): \d+", r"\1: N", card)
    card = re.sub(r"(\*\*download\*\* \|) .* MB", r"\1 N MB", card)
    measured = r"(?s)(model-index:.*?\n---\n|## What was measured.*?## How it was|## Before it was.*?\n## )"
    return re.sub(measured, lambda found: NUMBER.sub("N", found.group(1)), card)
