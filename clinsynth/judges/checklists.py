"""Checklists: what an image or text of a condition must show, as yes/no items that an expert or a judge answers.

A checklist is recipes/checklists/<name>.yaml, or a file of the user's:

    name: retinopathy
    version: 1
    title: Diabetic retinopathy, five grades
    modality: colour fundus photograph
    source: where the criteria come from
    signed: [{name: Jane Doe, date: 2026-01-31, version: 1}]
    conditions:
      grade 0:
        - {id: no_dots, aspect: lesion_type, question: Is …?, criterion: in plain words}

An item may have a `source` of its own, and `skin_types`: skin type to the criterion that holds for it instead. It may
have a `statement` that holds where the answer is yes, and a `negation` that holds where it is no, for judges that
compare images with sentences; else these are made of the question.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clinsynth.arguments import find_recipe, recipe_names
from clinsynth.plain_yaml import cut, read_yaml

NEGATIONS = {"no", "not", "never", "without", "any", "a", "an"}
"""Words that two questions may differ by and still be about the same thing; articles come and go with them."""
HINTS = {
    "extra_forbidden": "is not a key of a checklist; remove it or correct its spelling",
    "missing": "is missing; add it",
    "too_short": "is empty; write at least one item or character",
    "string_too_short": "is empty; write it in plain words",
}

Aspect = Literal["location", "lesion_type", "shape_size", "colour", "texture", "other"]


class Part(BaseModel):
    """What a checklist consists of: frozen, and with no key that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


class Item(Part):
    """One yes/no question; `skin_types` maps a skin type to the criterion that holds for it instead."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    aspect: Aspect
    question: str = Field(pattern=r"\?$")
    criterion: str = Field(min_length=1)
    source: str | None = None
    skin_types: dict[str, str] = {}
    statement: str | None = Field(default=None, min_length=1)
    negation: str | None = Field(default=None, min_length=1)


class Signature(Part):
    """An expert who stands for a version of the checklist."""

    name: str = Field(min_length=1)
    date: datetime.date
    version: int = Field(ge=1)


class Checklist(Part):
    """The items of every condition; `name` and `version` stand beside every score that was given with it."""

    name: str = Field(pattern=r"^[\w-]+$")
    version: int = Field(ge=1)
    title: str = Field(min_length=1)
    modality: str = Field(min_length=1)
    source: str = Field(min_length=1)
    signed: tuple[Signature, ...] = ()
    conditions: dict[str, tuple[Item, ...]] = Field(min_length=1)

    def items(self, condition: str) -> tuple[Item, ...]:
        """The items of a condition, in the order of the file.

        Raises:
            ValueError: there is no such condition.
        """
        if condition not in self.conditions:
            raise ValueError(
                f"checklist {self.name} has no condition {condition!r}; it has {', '.join(self.conditions)}: "
                "take one of these, or add it to the file"
            )
        return self.conditions[condition]

    def is_signed(self) -> bool:
        """Whether somebody signed just this version."""
        return any(signature.version == self.version for signature in self.signed)


def checklist_names() -> list[str]:
    """The checklists that come with clinsynth."""
    return recipe_names("checklists")


def load_checklist(path: str | Path) -> Checklist:
    """The checklist called `path`, or in the .yaml file `path`.

    Raises:
        ValueError: no such checklist, or a file that is none; names file, condition, item, what is wrong and a hint.
    """
    path = find_recipe("checklists", "--checklist", str(path))
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no checklist; write name, version, conditions, … as the others have them")
    try:
        checklist = Checklist.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{path}: {explain(values, error)}") from error
    for condition, items in checklist.conditions.items():
        check_items(path, condition, items)
    return checklist


def explain(values: dict[str, Any], error: ValidationError) -> str:
    """The first thing that is wrong, with its condition, item, key and a hint."""
    first = error.errors()[0]
    place = [cut(part) for part in first["loc"]]
    if place[0] == "conditions" and len(place) > 1:
        where = [f"condition {place[1]!r}"]
        if len(place) > 2:
            where.append(f"item {name_item(values['conditions'][first['loc'][1]], int(place[2]))}")
        where += place[3:]
    else:
        where = place
    hint = HINTS.get(first["type"]) or f"is {cut(repr(first.get('input')))}: {cut(first['msg'])}; correct it"
    return f"{', '.join(where)} {hint}"


def name_item(items: Any, number: int) -> str:
    """An item's id where it has one, else its number from 1."""
    item = items[number]
    return cut(item["id"]) if isinstance(item, dict) and "id" in item else f"number {number + 1}"


def check_items(path: Path, condition: str, items: tuple[Item, ...]) -> None:
    """Raise a `ValueError` for no items, a doubled id, or two items that ask the same or contradict each other."""
    where = f"{path}: condition {cut(condition)!r}"
    if not items:
        raise ValueError(f"{where} has no items; write at least one, or remove the condition")
    by_id: dict[str, Item] = {}
    by_matter: dict[str, Item] = {}
    for item in items:
        if item.id in by_id:
            raise ValueError(f"{where}, item {cut(item.id)} is there twice; give one of them another id")
        if item.negation and (not item.statement or item.negation == item.statement):
            fault = "is its statement" if item.statement else "has no statement to negate"
            raise ValueError(f"{where}, item {cut(item.id)}: its negation {fault}; write both, each of its own")
        by_id[item.id] = item
        matter = " ".join(word for word in split_words(item.question) if word not in NEGATIONS)
        other = by_matter.setdefault(matter, item)
        if other is not item:
            same = split_words(other.question) == split_words(item.question)
            verb = "ask the same" if same else "contradict each other"
            pair = f"items {cut(other.id)} and {cut(item.id)} {verb} ({cut(item.question)!r})"
            raise ValueError(f"{where}, {pair}; remove one of them")


def split_words(question: str) -> list[str]:
    """Its words, without case and punctuation."""
    return re.findall(r"\w+", question.casefold())


def sample_id(content: Image.Image | str) -> str:
    """What a score calls the image or text that it is about: 16 hexadecimal digits of a SHA-256.

    Of an image: of its mode, size and pixels, grey ones as L and all others as RGB, so that the file's format, name
    and metadata do not matter. Of a text: of its UTF-8 bytes.
    """
    if isinstance(content, str):
        return hashlib.sha256(content.encode()).hexdigest()[:16]
    image = content if content.mode == "L" else content.convert("RGB")
    digest = hashlib.sha256(f"{image.mode} {image.width} {image.height} ".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()[:16]
