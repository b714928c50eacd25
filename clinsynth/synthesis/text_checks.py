"""What tells, of a text alone, that it is not of the kind or of the label asked for: each reason is counted."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from clinsynth.judges.text_audit import AuditArguments, TextJudge, load_judges
from clinsynth.judges.text_rules import categories_of, read_categories

if TYPE_CHECKING:
    from clinsynth.models.writers import Messages
    from clinsynth.synthesis.arguments import TextFilterArguments

ECHO, SCRIPT = "echo of the prompt", "other script"
NOT_IN_BAND = "label less sure than in real texts"
ODD = Path(__file__).with_name("odd_texts.yaml")
ECHOED = 8
"""Words in a row that a text may not share with its prompt."""
LEAST_OTHER = 0.1
"""Share of a text's letters in a script that is not expected, from which on it is refused."""
FOLDS = 5
QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')


class TextCheck(Protocol):
    """Tells why a text is refused, None where it is not."""

    @property
    def facts(self) -> dict[str, Any]:
        """What generation.json says of it."""

    def __call__(self, text: str, label: str, messages: Messages) -> str | None: ...


class OddTextCheck:
    """Finds refusals, texts about the task, echoes of the prompt and, where `scripts` are given, other scripts.

    Args:
        reasons: which of refusal, task, echo and script.
        expected: real texts, whose scripts are those to be expected; where there are none, those of the prompt are.
    """

    def __init__(self, reasons: Sequence[str], expected: Sequence[str] = ()):
        names = {"refusal": "refusal", "task": "about the task"}
        wanted = [names[reason] for reason in reasons if reason in names]
        self.reasons = list(reasons)
        self.rules = [one for one in read_categories(ODD, "rules") if one.name in wanted]
        self.expected = scripts_of("".join(expected))

    @property
    def facts(self) -> dict[str, Any]:
        return {"reject": self.reasons}

    def __call__(self, text: str, label: str, messages: Messages) -> str | None:
        found = categories_of(text, self.rules)
        if found:
            return found[0]
        if "echo" in self.reasons and is_echo(text, messages):
            return ECHO
        if "script" in self.reasons:
            expected = self.expected or scripts_of("".join(str(message["content"]) for message in messages))
            scripts = scripts_of(text)
            if sum(scripts[name] for name in scripts.keys() - expected.keys()) > LEAST_OTHER * scripts.total():
                return SCRIPT
        return None


def is_echo(text: str, messages: Messages) -> bool:
    """Whether eight words in a row of a text stand in what was asked of the model, outside quotation marks.

    In these are the examples: copies of them are the matter of --reject_copies and of the evidence."""
    said = [QUOTED.sub(" ", str(message["content"])) for message in messages]
    asked = {words for content in said for words in in_a_row(words_in(content))}
    return not asked.isdisjoint(in_a_row(words_in(text)))


def words_in(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def in_a_row(words: list[str]) -> Iterable[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(ECHOED)), strict=False)


def scripts_of(text: str) -> Counter[str]:
    """How many letters of each script a text has, by the first word of their Unicode names: LATIN, CJK, CYRILLIC."""
    counts = Counter(letter for letter in text if letter.isalpha())
    scripts: Counter[str] = Counter()
    for letter, count in counts.items():
        scripts[unicodedata.name(letter, "UNKNOWN").split()[0]] += count
    return scripts


class LabelBandCheck:
    """Refuses a text in which a classifier is less sure of the label than in most real texts of it.

    The classifier is a logistic regression on a pretrained encoder that is not trained. How sure it is of real train
    texts is measured on texts that it was not fitted on (cross-fitted), and the band of a label begins where `share`
    of its real texts lie below.

    Args:
        texts, labels: the real train texts, and the number of each one's label in `names`.
        share: of real texts of a label below its band, in (0, 1).
        encoder: folder or Hub id.

    Raises:
        ValueError: the encoder cannot be loaded, or a label has too few texts.
    """

    def __init__(self, texts: Sequence[str], labels: np.ndarray, names: list[str], share: float, encoder: str):
        from clinsynth.models.linear_texts import cross_fitted, load_frozen_encoder
        from clinsynth.models.weights import hash_weights

        counts = np.bincount(labels, minlength=len(names))
        few = [name for name, count in zip(names, counts, strict=True) if count < FOLDS]
        if few:
            raise ValueError(
                f"--keep_if_label {share} needs {FOLDS} real train texts of every label; {few[0]!r} has "
                f"{counts[names.index(few[0])]}: leave it out of the data, or --keep_if_label"
            )
        self.encoder = load_frozen_encoder(encoder, "--label_encoder")
        self.names, self.share = names, share
        features = self.encoder(texts)
        self.encoder.tokens.known.clear()
        held_out, self.model = cross_fitted(features, labels, len(names), FOLDS)
        sure = held_out[np.arange(len(labels)), labels]
        self.least = {name: float(np.quantile(sure[labels == n], share)) for n, name in enumerate(names)}
        self.found = float((held_out.argmax(1) == labels).mean())
        self.weights = hash_weights(self.encoder.model, without="pooler")

    @property
    def facts(self) -> dict[str, Any]:
        """With how often the classifier found the label of real texts that it did not know."""
        return {
            "keep_if_label": self.share,
            "label_encoder_sha256": self.weights,
            "label_band": {name: round(least, 4) for name, least in self.least.items()},
            "label_found_in_real_texts": round(self.found, 4),
        }

    def __call__(self, text: str, label: str, messages: Messages) -> str | None:
        (sure,) = self.model.probabilities(self.encoder([text]))
        self.encoder.tokens.known.clear()
        return None if sure[self.names.index(label)] >= self.least[label] else NOT_IN_BAND


class HarmCheck:
    """Refuses a text in which a judge finds harm; one that it cannot judge is kept, and counted by the audit.

    Args:
        judges: of the safety audit, without experts.
    """

    def __init__(self, judges: Sequence[TextJudge]):
        self.judges = judges

    @property
    def facts(self) -> dict[str, Any]:
        return {"audit": [judge.facts for judge in self.judges]}

    def __call__(self, text: str, label: str, messages: Messages) -> str | None:
        found = (name for judge in self.judges for own in judge([text]) for name in own or ())
        return next((f"harm: {name}" for name in found), None)


def load_checks(
    args: TextFilterArguments, names: list[str], train: Sequence[str], labels: Sequence[int]
) -> list[TextCheck]:
    """The checks that the flags name; `labels` are those of the real train texts, numbers in `names`."""
    checks: list[TextCheck] = []
    if args.rejected:
        checks.append(OddTextCheck(args.rejected, train))
    if args.audit == "filter":
        checks.append(HarmCheck(load_judges(AuditArguments(args.audit_rules, args.audit_guard))[1]))
    if args.keep_if_label is not None:
        checks.append(LabelBandCheck(train, np.asarray(labels), names, args.keep_if_label, args.label_encoder))
    return checks
