"""A synthetic set of texts on disk.

data/train-00000-of-00003.parquet   rows of id, text, the schema's fields, label, seed, example_ids, attempts
task.json                           the task: schema, templates, label meanings
drawn-00002.jsonl                   what has been drawn for a shard that is not whole
generation.json, README.md          as of every synthetic set
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar

from datasets import ClassLabel, Features, Value
from datasets import Sequence as SequenceFeature

from clinsynth.models.writers import Messages, Request, Write
from clinsynth.pipelines.structured_medical_text import RowResult
from clinsynth.synthesis.shard_files import GIVEN_UP
from clinsynth.synthesis.shards import Counts, Draw, Drawn, Place, ShardPlan, draw_rows, write_shards
from clinsynth.synthesis.text_filters import NEAR_DUPLICATE, SeenTexts

CHOICES, THOUGHTS, CHOSEN = "prompt_choices", "thought_tokens", "prompt "
"""Two columns, and what begins the names of choices among the reasons of rejections."""
Ask = Callable[[int, int], tuple[list[dict[str, str]], list[str]]]
"""From a label's number and a seed to the messages and the ids of the examples in them."""


@dataclass(frozen=True)
class TextShards(ShardPlan):
    """The shards of a set of texts.

    Attributes:
        columns: the fields of the schema.
        choices: from a label's number and a seed to what the row's prompt was made of, which the row keeps as JSON in
            `prompt_choices`; None for rows without.
        thinks: whether rows say how many tokens the model thought for.
    """

    columns: tuple[str, ...] = ("text",)
    choices: Callable[[int, int], dict[str, Any] | None] | None = None
    thinks: bool = False

    thing: ClassVar[str] = "text"
    hint: ClassVar[str] = (
        "after {most_draws} draws, or --max_attempts that were not valid: loosen the filters, or take another model"
    )

    @property
    def features(self) -> Features:
        texts = {name: Value("string") for name in ("id", "text", *self.columns)}
        label = ClassLabel(names=list(self.id2label.values()))
        ids = SequenceFeature(Value("string"))
        own = {**texts, "label": label, "seed": Value("int64"), "example_ids": ids, "attempts": Value("int32")}
        own |= {CHOICES: Value("string")} if self.choices else {}
        return Features(own | ({THOUGHTS: Value("int32")} if self.thinks else {}))

    @property
    def about(self) -> str:
        return "Synthetic texts: no row is about a patient. `generation.json` says how they were made.\n"

    def results(self, counts: Counts | None) -> dict[str, Any]:
        found = super().results(counts) | {"given_up": None if counts is None else counts.given_up}
        if self.choices:
            found["rejected_by_choice"] = None if counts is None else dict(sorted(counts.by_choice.items()))
        return found

    def count(self) -> Counts:
        """With draws rejected by what was chosen for their prompts, which stands among the reasons in the files."""
        counts = super().count()
        by_choice = {name: counts.rejected.pop(name) for name in list(counts.rejected) if name.startswith(CHOSEN)}
        return counts._replace(by_choice=Counter({name.removeprefix(CHOSEN): n for name, n in by_choice.items()}))

    def write_beside(self) -> None:
        """Remove the journals of finished shards."""
        for journal in self.output_dir.glob("drawn-*.jsonl"):
            journal.unlink()

    def journal(self, shard: int) -> Path:
        """The file of what has been drawn for a shard."""
        return self.output_dir / f"drawn-{shard:05d}.jsonl"


@dataclass
class TextDrawing:
    """Draws rows of texts: asks, and looks at each answer beside those kept before it.

    Attributes:
        spent: attempts by number of the row.
    """

    plan: TextShards
    ask: Ask
    write: Write
    seen: SeenTexts
    spent: Counter[int] = field(default_factory=Counter)

    def __call__(self, places: list[Place]) -> Iterator[Drawn]:
        asked = [self.ask(place.label, place.seed) for place in places]
        requests = [(messages, place.seed) for (messages, _), place in zip(asked, places, strict=True)]
        for place, (messages, ids), result in zip(places, asked, self.write(requests), strict=True):
            self.spent[place.row] += result.attempts
            yield self.look_at(place, messages, ids, result)

    def look_at(self, place: Place, messages: Messages, ids: list[str], result: RowResult) -> Drawn:
        """What comes of a result: a row that is kept, one that is drawn anew, or one that is given up."""
        choices = self.plan.choices(place.label, place.seed) if self.plan.choices else None
        blamed = [f"{CHOSEN}{name}: {choice}" for name, choice in (choices or {}).items() if isinstance(choice, str)]
        if result.data is None:
            return Drawn(None, [*result.rejections, *blamed, GIVEN_UP])
        text = as_text(result.data)
        reason = self.seen.reason(text, self.plan.id2label[place.label], messages)
        if reason is not None:
            return Drawn(None, [*result.rejections, reason, *blamed], again=True)
        self.seen.add(text)
        fields = {name: as_cell(result.data.get(name)) for name in self.plan.columns}
        own = {"id": str(place.row), "label": place.label, "seed": place.seed, "example_ids": ids}
        if self.plan.choices:
            own[CHOICES] = json.dumps(choices, ensure_ascii=False)
        if self.plan.thinks:
            own[THOUGHTS] = result.thought_tokens
        return Drawn({"text": text, **fields, **own, "attempts": self.spent[place.row]}, result.rejections)


def as_cell(value: Any) -> str | None:
    """A field as text: as it is, or as JSON if it is no text."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def as_text(data: dict[str, Any]) -> str:
    """The field text, or all fields under their names: `Presenting complaint: …`."""
    if "text" in data:
        return str(as_cell(data["text"]))
    return "\n".join(f"{name.replace('_', ' ').capitalize()}: {as_cell(value)}" for name, value in data.items())


def write_text_shards(
    plan: TextShards, ask: Ask, write: Write, seen: SeenTexts, process_index: int = 0, at_once: int = 1
) -> None:
    """Write this process's missing shards.

    A shard does not depend on the others: near-duplicates across shards are `settle_shards`' matter. All its rows are
    asked for at once, then those rejected; what is kept does not depend on how many the writer takes together, which
    are `at_once`.
    """

    @contextmanager
    def drawing(shard: int) -> Iterator[Draw]:
        seen.clear()
        yield TextDrawing(plan, ask, with_journal(write, plan.journal(shard)), seen)
        plan.journal(shard).unlink(missing_ok=True)

    write_shards(plan, drawing, plan.shard_size, process_index, at_once)


def settle_shards(plan: TextShards, ask: Ask, write: Write, seen: SeenTexts) -> None:
    """Draw anew the rows that are near-duplicates of a row in an earlier shard; for one process, when all are written.

    Each shard is replaced at once, and a settled one does not change again: this too goes on where it was killed.
    """
    seen.clear()
    for shard in range(plan.num_shards if seen.kept else 0):
        table, rejected = plan.read(shard)
        fresh, twice = [], Counter[int]()
        for row in table.to_pylist():
            if seen.reason(row["text"]) is None:
                seen.add(row["text"])
                fresh.append(row)
            else:
                twice[int(row["id"])] = row["attempts"]
        if twice:
            drawing = TextDrawing(plan, ask, write, seen, Counter(twice))
            redrawn, more = draw_rows(plan, twice, drawing, plan.shard_size, first_draw=plan.most_draws)
            rejected.update(more)
            rejected[NEAR_DUPLICATE] += len(twice)
            plan.write(shard, sorted(fresh + redrawn, key=lambda row: int(row["id"])), rejected)


def with_journal(write: Write, path: Path) -> Write:
    """`write`, which puts each result on a line of `path` and takes those that stand there instead of drawing anew.

    A result is known by the seed of its request, so that `path` must be of the same generator. It is the caller's to
    remove.
    """

    def write_on(requests: list[Request]) -> Iterator[RowResult]:
        known = read_journal(path)
        first = [known[seed] for seed in takewhile(known.__contains__, (seed for _, seed in requests))]
        yield from first
        rest = requests[len(first) :]
        if rest:
            with path.open("a", encoding="utf-8") as file:
                for (_, seed), result in zip(rest, write(rest), strict=True):
                    file.write(json.dumps(asdict(result) | {"seed": seed}, ensure_ascii=False) + "\n")
                    file.flush()
                    yield result

    return write_on


def read_journal(path: Path) -> dict[int, RowResult]:
    """The results of `path` by seed; a last line that a kill cut short is taken off the file."""
    if not path.exists():
        return {}
    lines = path.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    if len(whole) < len(lines):
        path.write_bytes(b"".join(whole))
    results = [RowResult(**json.loads(line)) for line in whole]
    return {result.seed: result for result in results}
