"""Forms: questions in a YAML file, each filled with statements that cite a file of the run, or marked as open.

Nothing is computed here: a statement repeats values as they stand in the run's files, each with its file and place. A
question about which no file says anything is answered by what was not measured, or is left open for a human.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from itertools import zip_longest
from typing import Any

import yaml

from clinsynth.hub.data_sets import BIDI
from clinsynth.hub.pack.files import Node
from clinsynth.hub_cards.sources import NOT_SHOWN
from clinsynth.metrics.registry import IMAGE_METRICS, SCORES, TEXT_METRICS
from clinsynth.private_words import HIDDEN, HIDDEN_FLAGS, last_part, without_paths
from clinsynth.reports.page import format_number

MEASURED, RECORDED, DECLARED, NOT_MEASURED, OPEN = "measured", "on record", "declared", "not measured", "open"
"""What a statement is: a measurement of the run, a setting or fact of it, what clinsynth does in every run, what was
not measured or not done, and what a human must fill in."""
NO_FILE = "no file of the run says anything about it"
OF_MEASUREMENT = {"evidence", "membership", "text_attacks", "audit", "results"}
NO_MEASUREMENT = {"data", "environment", "extractor", "encoder", "notes", "runs"}
"""Files of measurements, and their parts that say what was measured and by what."""
PLACE = re.compile(r"\{([^{}|]+)(?:\|(\w+))?\}")
MAY_BE_MISSING = ("none", "given")
UNDERSCORES = str.maketrans("_", " ")
NOT_SETTINGS = NOT_SHOWN | HIDDEN_FLAGS | {"endpoint", "examples_sha256", "verify_labels_sha256"}
"""Names of settings that would tell a path, an address or a digest of real texts, or that say nothing of how something
was made."""
Sources = Mapping[str, list[Node]]
"""What a run's files hold, by the names that forms use: evidence, generation, train_config, …"""


@dataclass(frozen=True)
class Statement:
    """One sentence of the pack.

    Attributes:
        status: one of the five above.
        values: what it repeats of the run's files, in the order in which it does, each with how it is shown.
        source: what it rests on where it repeats nothing.
    """

    status: str
    text: str
    values: list[tuple[Node, str]] = field(default_factory=list)
    source: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As pack.json holds it."""
        cited = [
            {"file": node.file, "path": node.path, node.holds: public(node), "shown": shown}
            for node, shown in self.values
        ]
        return {"status": self.status, "text": self.text, "values": cited, "source": self.source}


@dataclass(frozen=True)
class Rule:
    """What a file of the run may say in answer to a question.

    Attributes:
        of: the kind of file.
        at: the places in it, as `Node.find` takes them; each gives a statement.
        say: the sentence, with places below that one in braces: {.} is the value itself, {@} its name. After a bar
            "title" of a metric, "data" of a data set, whose path is not told, "given" of what is not told at all, and
            "none" of what may be missing. Of several sentences the first of which each place holds something.
        where, unless: a value, or several, that a record must have, or must not have, under a name.
        least: of all records the one with the least value under this name.
        first: the first alone.
        join: all sentences as one.
        settings: names that say how something was made, without paths and private words.
    """

    of: str
    at: str
    say: str | list[str]
    where: dict[str, Any] = field(default_factory=dict)
    unless: dict[str, Any] = field(default_factory=dict)
    least: str = ""
    first: bool = False
    join: bool = False
    settings: bool = False

    @property
    def status(self) -> str:
        """What a sentence of this rule is."""
        if "not_run" in self.at:
            return NOT_MEASURED
        measures = self.of in OF_MEASUREMENT and self.at.split("/")[0] not in NO_MEASUREMENT
        return MEASURED if measures else RECORDED


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        asks: in other words.
        says: what files may say.
        declares: what clinsynth does in every run.
        missing: what stands here as not measured where no file says anything.
        open: what a human has to fill in.
        when: "images" or "texts", where it is asked of these alone.
    """

    name: str
    asks: str = ""
    says: list[Rule] = field(default_factory=list)
    declares: str = ""
    missing: str = ""
    open: str = ""
    when: str = ""


@dataclass(frozen=True)
class Form:
    """A form: what it follows (`source`), and whether it is of "images" or "texts" alone."""

    title: str
    source: str
    items: list[Item]
    when: str = ""


def read_form(name: str) -> Form:
    """The form in a YAML file of this folder."""
    values = yaml.safe_load(resources.files(__package__).joinpath(f"{name}.yaml").read_text(encoding="utf-8"))
    items = [Item(**item | {"says": [Rule(**rule) for rule in item.get("says", [])]}) for item in values.pop("items")]
    return Form(items=items, **values)


def fill(form: Form, sources: Sources, kinds: Collection[str]) -> dict[str, Any]:
    """The form as pack.json holds it.

    Args:
        kinds: "images", "texts", or both.
    """
    titles = titles_of(kinds)
    items = []
    for item in form.items:
        if not item.when or item.when in kinds:
            said = [statement.to_dict() for statement in answer(item, sources, titles, form.source)]
            items.append({"name": item.name, "asks": item.asks, "statements": said})
    return {"title": form.title, "source": form.source, "items": items}


def titles_of(kinds: Collection[str]) -> dict[str, str]:
    """What tables call a metric: distances of texts are of embeddings."""
    groups = [SCORES, IMAGE_METRICS.values(), TEXT_METRICS.values()]
    named = groups if "texts" in kinds else [groups[0], groups[2], groups[1]]
    return {metric.name: metric.heading for group in named for metric in group}


def answer(item: Item, sources: Sources, titles: Mapping[str, str], source: str) -> Iterator[Statement]:
    """What the run's files say to a question, then what clinsynth declares, was not measured, or is open."""
    said = [one for rule in item.says for root in sources.get(rule.of, []) for one in apply(rule, root, titles)]
    yield from unique(said)
    if item.declares:
        yield Statement(DECLARED, item.declares, source="what clinsynth does in every run (docs/pack.md)")
    if item.missing and not said:
        yield Statement(NOT_MEASURED, item.missing, source=NO_FILE)
    if item.open:
        yield Statement(OPEN, item.open, source=source)


def unique(statements: Iterable[Statement]) -> Iterator[Statement]:
    """The statements without one that another makes word for word of the same values."""
    seen = set()
    for one in statements:
        key = (one.text, tuple((node.file, node.path) for node, _ in one.values))
        if key not in seen:
            seen.add(key)
            yield one


def apply(rule: Rule, root: Node, titles: Mapping[str, str]) -> Iterator[Statement]:
    """The statements that a rule makes of one file."""
    found = [node for node in root.find(rule.at) if fits(rule, node)]
    if rule.least:
        found = [node for node in found if isinstance(node.value, dict) and known(node.value.get(rule.least))]
        found = sorted(found, key=lambda node: float(node.value[rule.least]))[:1]
    said = [one for node in found if (one := state(rule, node, titles)) is not None]
    if rule.join and said:
        values = [value for one in said for value in one.values]
        said = [Statement(said[0].status, "; ".join(one.text for one in said), values)]
    yield from said[:1] if rule.first else said


def fits(rule: Rule, node: Node) -> bool:
    """Whether a rule is about this value."""
    if rule.settings and (node.key in NOT_SETTINGS or not known(node.value) or hides(node)):
        return False
    if not rule.where and not rule.unless:
        return True
    values = node.value if isinstance(node.value, dict) else {}
    wanted = all(values.get(name) in as_list(value) for name, value in rule.where.items())
    return wanted and not any(values.get(name) in as_list(value) for name, value in rule.unless.items())


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def known(value: Any) -> bool:
    """Whether a file says anything there."""
    return value is not None and value != "" and value != {} and value != []


def hides(node: Node) -> bool:
    """Whether a value is a path or an address."""
    return public(node) != node.value or HIDDEN in str(node.value)


def state(rule: Rule, node: Node, titles: Mapping[str, str]) -> Statement | None:
    """The rule's sentence about a value; of a record that holds no value what was not measured, and why."""
    for sentence in as_list(rule.say):
        places = PLACE.findall(sentence)
        cited = [one for path, kind in places if (one := cite(node, path, kind)) is not None]
        if len(cited) == len(places):
            values = [(one, show(one, kind, titles)) for one, (_, kind) in zip(cited, places, strict=True)]
            return Statement(rule.status, compose(sentence, [shown for _, shown in values]), values)
    return not_measured(node, titles)


def compose(sentence: str, shown: list[str]) -> str:
    """The sentence with words in its places."""
    between = PLACE.split(sentence)[:: PLACE.groups + 1]
    return "".join(part for pair in zip_longest(between, shown, fillvalue="") for part in pair)


def not_measured(node: Node, titles: Mapping[str, str]) -> Statement | None:
    """What a record without a value says of why there is none; None of anything else."""
    if not isinstance(node.value, dict) or known(node.value.get("value")) or not node.value.get("note"):
        return None
    values = [(one, show(one, kind, titles)) for name, kind in (("label", ""), ("metric", "title"), ("note", ""))
              for one in node.find(name)]  # fmt: skip
    return Statement(NOT_MEASURED, ": ".join(shown for _, shown in values), values)


def cite(node: Node, path: str, kind: str) -> Node | None:
    """What is cited of the value that a place of a sentence means, None where nothing stands there: of a data set the
    last part of its path alone, of a private value that there is one."""
    if path == "@":
        return replace(node, value=node.key, holds="name")
    found = node if path == "." else next(iter(node.find(path)), None)
    if found is None or not (known(found.value) or kind in MAY_BE_MISSING):
        return None
    if kind == "data":
        return replace(found, value=last_part(str(found.value)), holds="last part")
    return replace(found, value=known(found.value), holds="is given") if kind == "given" else found


def public(node: Node) -> Any:
    """A value as it may leave the machine: without paths and without signs that turn the direction of reading."""
    return without_bidi(without_paths(node.value))


def without_bidi(value: Any) -> Any:
    if isinstance(value, str):
        return BIDI.sub("", value)
    if isinstance(value, list):
        return [without_bidi(one) for one in value]
    if isinstance(value, dict):
        return {without_bidi(name): without_bidi(one) for name, one in value.items()}
    return value


def show(node: Node, kind: str, titles: Mapping[str, str]) -> str:
    """A value in a sentence; of `kind` "title" what tables call a metric."""
    value = public(node)
    if kind == "title":
        return titles.get(str(value), str(value).translate(UNDERSCORES))
    return value_in_words(value) if known(value) else "none"


def value_in_words(value: Any) -> str:
    """A value of JSON as it stands in a sentence."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return format_number(value)
    if isinstance(value, list):
        return ", ".join(map(value_in_words, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {value_in_words(one)}" for name, one in value.items() if one is not None) or "none"
    return str(value)
