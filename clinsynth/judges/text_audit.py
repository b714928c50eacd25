"""The safety audit of texts: which are harmful, as reviewed rules, a guard model or experts say.

The categories are those of a YAML file (recipes/audits/harm.yaml). Where experts have looked at a text, they decide;
else a text is flagged where any other judge finds a category in it. No text stands in what this writes.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow.parquet as pq
from scipy.stats import binomtest

from clinsynth.arguments import find_recipe
from clinsynth.judges.text_rules import Category, categories_of, read_categories

if TYPE_CHECKING:
    from clinsynth.models.writers import Messages

Found = list[str] | None
"""The categories found in a text, None where a judge could not tell."""

GUARD_CODES = {
    "S1": "abuse",
    "S4": "sexual content with minors",
    "S6": "medical misinformation",
    "S7": "identifiable persons",
    "S10": "hate",
    "S11": "encouragement of self-harm",
}
"""What Llama Guard's codes (version 3) are called here; another code is called `guard S12`."""
ANSWER_TOKENS = 24


class TextJudge(Protocol):
    """Finds categories of harm.

    Attributes:
        kind: rules, guard or experts.
        facts: what identifies it.
    """

    @property
    def kind(self) -> str: ...

    @property
    def facts(self) -> dict[str, Any]: ...

    def __call__(self, texts: Sequence[str]) -> Iterator[Found]: ...


@dataclass
class AuditArguments:
    """Who judges texts."""

    rules: str = "harm"
    """the categories, and the rules that find them: harm, or a .yaml file like recipes/audits/harm.yaml"""
    guard: str | None = None
    """also a guard model, folder or Hub id, of Llama Guard's or ShieldGemma's chat format"""

    def __post_init__(self) -> None:
        find_recipe("audits", "--rules", self.rules)


def load_judges(
    args: AuditArguments, endpoint: str | None = None, scores: str | None = None
) -> tuple[list[Category], list[TextJudge]]:
    """The categories, and the judges that the flags name.

    Args:
        endpoint: address of a server that runs the guard model.
        scores: table of experts' scores.

    Raises:
        ValueError: a file is none of the kind, or the model cannot be loaded.
    """
    path = find_recipe("audits", "--rules", args.rules)
    categories = read_categories(path, "--rules")
    judges: list[TextJudge] = [RuleJudge(categories, path)]
    if args.guard and endpoint:
        judges.append(EndpointGuard(args.guard, endpoint))
    elif args.guard:
        judges.append(LocalGuard(args.guard, categories))
    if scores:
        judges.append(ExpertTextJudge(Path(scores), categories))
    return categories, judges


@dataclass(frozen=True)
class RuleJudge:
    """The rules of a file."""

    categories: list[Category]
    path: Path
    kind: str = "rules"

    @property
    def facts(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self.path.name,
            "sha256": hashlib.sha256(self.path.read_bytes()).hexdigest(),
        }

    def __call__(self, texts: Sequence[str]) -> Iterator[Found]:
        return (categories_of(text, self.categories) for text in texts)


class LocalGuard:
    """A guard model here.

    One whose chat template takes a `guideline` (ShieldGemma) is asked for each category, and says yes where that is
    the likelier of its next words Yes and No. Another one (Llama Guard) answers `safe`, or `unsafe` and its codes.

    Args:
        source: folder or Hub id.
        categories: whose meanings are the guidelines.

    Raises:
        ValueError: it cannot be loaded, or has no chat template.
    """

    kind = "guard"

    def __init__(self, source: str, categories: Sequence[Category]):
        from clinsynth.models.language_models import load_causal_model
        from clinsynth.models.weights import best_device, hash_weights

        model, self.tokenizer = load_causal_model(source, flag="--guard")
        if not self.tokenizer.chat_template:
            raise ValueError(
                f"--guard {source} has no chat template, which tells a guard model's format; take another"
            )
        self.model: Any = model.to(best_device())  # type: ignore[arg-type]
        self.categories, self.weights = categories, hash_weights(model)
        self.by_guideline = "guideline" in str(self.tokenizer.chat_template)

    @property
    def facts(self) -> dict[str, Any]:
        form = "a guideline a category" if self.by_guideline else "safe or unsafe and codes"
        return {"kind": self.kind, "weights_sha256": self.weights, "form": form}

    def __call__(self, texts: Sequence[str]) -> Iterator[Found]:
        return (self.by_guidelines(text) if self.by_guideline else read_guard(self.answer(text)) for text in texts)

    def inputs(self, text: str, **settings: Any) -> Any:
        chat: Any = [{"role": "user", "content": text}]
        asked = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **settings)
        return self.tokenizer(asked, add_special_tokens=False, return_tensors="pt").to(self.model.device)

    def by_guidelines(self, text: str) -> Found:
        import torch

        yes, no = (self.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("Yes", "No"))
        found = []
        for category in self.categories:
            with torch.inference_mode():
                logits = self.model(**self.inputs(text, guideline=category.meaning)).logits[0, -1]
            if logits[yes] > logits[no]:
                found.append(category.name)
        return found

    def answer(self, text: str) -> str:
        import torch

        inputs = self.inputs(text)
        with torch.inference_mode():
            tokens = self.model.generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False)
        return str(self.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


class EndpointGuard:
    """A guard model of Llama Guard's format behind the OpenAI chat protocol."""

    kind = "guard"

    def __init__(self, model: str, endpoint: str):
        from clinsynth.models.endpoints import Endpoint
        from clinsynth.models.writers import WriterArguments, read_key

        args = WriterArguments(model=model, endpoint=endpoint, temperature=0.0)
        self.server = Endpoint(args, {}, ANSWER_TOKENS, read_key(endpoint))

    @property
    def facts(self) -> dict[str, Any]:
        return {"kind": self.kind, "weights_sha256": None, "form": "safe or unsafe and codes, at a server"}

    def __call__(self, texts: Sequence[str]) -> Iterator[Found]:
        chats: list[Messages] = [[{"role": "user", "content": text}] for text in texts]
        return (None if said is None else read_guard(said) for said in self.server.say(chats))


def read_guard(answer: str) -> Found:
    """The categories in an answer of Llama Guard's format: `safe`, or `unsafe` and its codes on the next line."""
    lines = answer.strip().lower().split("\n")
    if lines[0].strip() == "safe":
        return []
    if lines[0].strip() != "unsafe":
        return None
    codes = [code.strip().upper() for code in ",".join(lines[1:]).split(",") if code.strip()]
    return list(dict.fromkeys(GUARD_CODES.get(code, f"guard {code}") for code in codes)) or ["guard"]


class ExpertTextJudge:
    """Scores of experts, a table .parquet or .csv of `row` (number of the text in the set, from 0), `item_id` (a
    category), `score` (0 or 1) and perhaps `rater`. A text is of a category where more say so than not; one that was
    not scored in every category is left to the other judges.

    Raises:
        ValueError: the table cannot be read; names the row.
    """

    kind = "experts"

    def __init__(self, path: Path, categories: Sequence[Category]):
        self.path, self.known = path, [category.name for category in categories]
        self.votes: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for number, row in enumerate(read_scores(path), start=1):
            try:
                text, item, score = int(row["row"]), str(row["item_id"]), int(row["score"])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"--scores {path}, row {number} must have row, item_id and score, 0 or 1; it has {', '.join(row)}"
                ) from error
            if item not in self.known or score not in (0, 1):
                raise ValueError(
                    f"--scores {path}, row {number}: {item!r} scored {score}; items are {', '.join(self.known)}"
                )
            self.votes[text][item].append(score)

    @property
    def facts(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        return {"kind": self.kind, "sha256": digest, "texts": len(self.votes)}

    def __call__(self, texts: Sequence[str]) -> Iterator[Found]:
        beyond = [row for row in self.votes if not 0 <= row < len(texts)]
        if beyond:
            raise ValueError(
                f"--scores {self.path} has row {beyond[0]}, but the set has {len(texts)}; give its own table"
            )
        for row in range(len(texts)):
            votes = self.votes.get(row, {})
            whole = set(self.known) <= votes.keys()
            yield [name for name, own in votes.items() if 2 * sum(own) > len(own)] if whole else None


def read_scores(path: Path) -> list[dict[str, Any]]:
    """Rows of a .parquet or .csv file of scores."""
    if path.suffix not in (".parquet", ".csv") or not path.is_file():
        raise ValueError(
            f"--scores {path} is no .parquet or .csv file that is there; give a table of row, item_id and score"
        )
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def audit_texts(
    texts: Sequence[str], labels: Sequence[str], categories: Sequence[Category], judges: Sequence[TextJudge]
) -> dict[str, Any]:
    """The record of an audit, JSON-able, without any text.

    Returns:
        `flagged`: count, n, value and its 95 % interval (Clopper & Pearson); `not_judged`: texts about which a guard
        gave no answer that can be read, and no expert said anything; `not_looked_for`: categories without a rule,
        where there is no guard; `by_category`, `by_label`; `rows`: number of each flagged text, and who found what;
        `judges`; `categories` with their meanings.
    """
    found = {judge.kind: list(judge(texts)) for judge in judges}
    rows: list[dict[str, Any]] = []
    unread = 0
    for row in range(len(texts)):
        own = {kind: answers[row] for kind, answers in found.items()}
        said = own.pop("experts", None)
        judged: dict[str, Found] = own if said is None else {"experts": said}
        unread += any(answer is None for answer in judged.values())
        if any(judged.values()):
            rows.append({"row": row, "label": labels[row], "found": {kind: a for kind, a in judged.items() if a}})
    each = [{name for own in row["found"].values() for name in own} for row in rows]
    totals, flagged = Counter(labels), Counter(row["label"] for row in rows)
    return {
        "flagged": share_of(len(rows), len(texts)),
        "not_judged": unread,
        "not_looked_for": [] if "guard" in found else [one.name for one in categories if not one.patterns],
        "by_category": dict(sorted(Counter(name for own in each for name in own).items())),
        "by_label": {label: share_of(flagged[label], count) for label, count in totals.items()},
        "rows": rows,
        "judges": [judge.facts for judge in judges],
        "categories": {category.name: category.meaning for category in categories},
    }


def share_of(count: int, n: int) -> dict[str, Any]:
    """A share with its 95 % interval."""
    if not n:
        return {"count": 0, "n": 0, "value": None, "interval": None}
    low, high = binomtest(count, n).proportion_ci(0.95)
    return {"count": count, "n": n, "value": count / n, "interval": [float(low), float(high)]}
