"""The verdict on a synthetic set: five questions answered in words, what it is suitable for, and what to do next.

Every rule stands here once, as a row of words and the test that they describe; the first row of a question that holds
is its answer. docs/verdicts.md is drawn from these rows.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from clinsynth.metrics.readings import IMAGES, PLAIN, Readings, read_evidence, shown
from clinsynth.metrics.records import OVERALL

YES, PARTLY, NO, UNKNOWN, UNMEASURED = "yes", "partly", "no", "cannot tell", "not measured"
GOOD, FAIR, BAD, OPEN = "good", "fair", "bad", "open"
"""Tones of an answer: each has a colour and an icon of its own."""
ICONS = {GOOD: "✓", FAIR: "◐", BAD: "✗", OPEN: "?"}
FEW = 50
"""Samples on either side below which nothing is taken to be fine: none of 50 leaves room for one in 14."""
NEAR_REAL, FAR = 3, 30
"""Multiples of the floor of a Fréchet distance."""
MOST, HALF, LITTLE = 0.75, 0.5, 0.25
"""Shares of what real samples reach."""
AMONG = "as many lie among real {things} as real ones do"
TIMES = "times that between real {things}"
LOOKS, CLASS, VARIED, HELPS, COPIES = "looks", "class", "varied", "helps", "copies"
QUESTIONS = {
    LOOKS: "Looks like real?",
    CLASS: "Shows its class?",
    VARIED: "As varied?",
    HELPS: "Helps a classifier?",
    COPIES: "Copies anybody?",
}
NOISE = "privacy says little: noise copies nobody"
Test = Callable[[Readings], bool]


@dataclass(frozen=True)
class Rule:
    """A row: what is answered, why, and where it holds. `words` may name the {things}; `by` is the reading that it
    goes by, whose number then comes first."""

    answer: str
    words: str
    holds: Test
    by: str = ""


def under(name: str, share: float) -> Test:
    """Whether a reading is below `share` of its floor; not where it is missing."""
    return lambda r: (beside := getattr(r, name)) is not None and beside.ratio < share


def above(name: str, times: float) -> Test:
    """Whether a reading is above so many times its floor; not where it is missing."""
    return lambda r: (beside := getattr(r, name)) is not None and beside.ratio > times


def either(*tests: Test) -> Test:
    return lambda r: any(test(r) for test in tests)


def is_few(r: Readings) -> bool:
    return min(r.n, r.n_real) < FEW


def none_of_it(r: Readings) -> bool:
    """Whether none of the real variety is covered, where other real samples cover some."""
    return any(one is not None and one.value == 0 < one.floor for one in (r.recall, r.coverage))


def gained(*verdicts: str) -> Test:
    return lambda r: any(gain.verdict in verdicts for gain in r.gains)


def gained_by_itself(r: Readings) -> bool:
    """Whether the interval of a gain or a loss leaves out zero, which Holm's correction did not let stand."""
    return any(gain.interval[0] > 0 or gain.interval[1] < 0 for gain in r.gains)


def gained_for_sure(r: Readings) -> bool:
    """Whether an arm helps beside the study's control, a strong one, with labels that are right, and none hurts."""
    sure = [g for g in r.gains if g.verdict == "helps" and g.main and g.control != PLAIN and not g.labels]
    return bool(sure) and not any(gain.verdict == "hurts" for gain in r.gains)


def looks_wrong(r: Readings) -> bool:
    return first_rule(LOOKS, r).answer == NO


FEW_WORDS = f"fewer than {FEW} synthetic or held-out {{things}}: too few to call anything fine"
LACKING_WORDS = "as a whole yes, but a class lacks real variety"
CHANCE_WORDS = "the extractor tells the real classes no better than chance: its distances say nothing"
RULES: dict[str, tuple[Rule, ...]] = {
    LOOKS: (
        Rule(
            UNMEASURED,
            "neither Fréchet distance nor precision has a number and a floor",
            lambda r: r.distance is None and r.precision is None,
        ),
        Rule(
            NO,
            f"in pixels less than {HALF:.0%} as like the nearest real image as other real ones are",
            under("structure", HALF),
            "structure",
        ),
        Rule(UNKNOWN, CHANCE_WORDS, lambda r: r.at_chance),
        Rule(NO, f"fewer than {HALF:.0%} {AMONG}", under("precision", HALF), "precision"),
        Rule(NO, f"the Fréchet distance is more than {FAR} {TIMES}", above("distance", FAR)),
        Rule(
            PARTLY,
            f"fewer than {MOST:.0%} {AMONG}",
            under("precision", MOST),
            "precision",
        ),
        Rule(
            PARTLY,
            f"the Fréchet distance is more than {NEAR_REAL} {TIMES}",
            above("distance", NEAR_REAL),
        ),
        Rule(PARTLY, "the tone is softer than that of real {things}", lambda r: bool(r.softened)),
        Rule(
            UNMEASURED,
            "Fréchet distance or precision has no number or no floor",
            lambda r: r.distance is None or r.precision is None,
        ),
        Rule(UNKNOWN, FEW_WORDS, is_few),
        Rule(YES, "as near to real {things} as other real ones are, or nearly so", lambda r: True),
    ),
    CLASS: (
        Rule(
            UNMEASURED,
            "no classifier of real {things} was asked, or there were fewer than 10 of each class",
            lambda r: r.agreement is None,
        ),
        Rule(
            UNKNOWN,
            "the classifier knows real {things}' classes no better than by chance",
            lambda r: r.agreement is not None and not r.agreement.known,
        ),
        Rule(
            NO,
            "a classifier finds their label nearer to chance than to real {things}",
            lambda r: r.agreement is not None and r.agreement.mixed,
        ),
        Rule(
            PARTLY,
            "a classifier finds their label clearly less often than that of real {things}",
            lambda r: r.agreement is not None and r.agreement.below,
        ),
        Rule(
            PARTLY,
            "as a whole yes, but a class is mixed up with others",
            lambda r: r.agreement is not None and bool(r.agreement.classes),
        ),
        Rule(UNKNOWN, FEW_WORDS, is_few),
        Rule(YES, "a classifier finds their label as often as that of real {things}", lambda r: True),
    ),
    VARIED: (
        Rule(NO, "the generator repeats itself in the set as a whole", lambda r: OVERALL in (r.repeats or [])),
        Rule(
            UNMEASURED,
            "neither recall nor coverage has a number and a floor",
            lambda r: r.recall is None and r.coverage is None,
        ),
        Rule(UNKNOWN, CHANCE_WORDS, lambda r: r.at_chance),
        Rule(NO, "covers none of the real variety", none_of_it),
        Rule(
            NO,
            f"covers less than {LITTLE:.0%} of what real {{things}} cover of one another",
            either(under("recall", LITTLE), under("coverage", LITTLE)),
        ),
        Rule(PARTLY, "the generator repeats itself in a class", lambda r: bool(r.repeats)),
        Rule(
            PARTLY,
            f"covers less than {MOST:.0%} of what real {{things}} cover of one another",
            either(under("recall", MOST), under("coverage", MOST)),
        ),
        Rule(PARTLY, LACKING_WORDS, lambda r: bool(r.lacks)),
        Rule(
            UNMEASURED,
            "recall has no number or no floor, or repetition was not looked for",
            lambda r: r.recall is None or r.repeats is None,
        ),
        Rule(UNKNOWN, FEW_WORDS, is_few),
        Rule(YES, "covers what real {things} cover of one another, and does not repeat itself", lambda r: True),
    ),
    HELPS: (
        Rule(UNMEASURED, "no classifier was trained with them", lambda r: not r.gains),
        Rule(UNKNOWN, "too few seeds to tell", lambda r: max(gain.seeds for gain in r.gains) < 2),
        Rule(UNKNOWN, FEW_WORDS, is_few),
        Rule(YES, "added to real {things} they help beside the strongest control", gained_for_sure),
        Rule(
            PARTLY,
            "they help, but only beside real {things} trained plainly, or with mixed-up labels, or in one arm of "
            "several while they hurt in another",
            gained("helps"),
        ),
        Rule(NO, "added to real {things} they hurt", gained("hurts")),
        Rule(UNKNOWN, "a difference is seen that may be chance, as several were looked at", gained_by_itself),
        Rule(
            UNKNOWN,
            "no difference seen: there may be one, smaller than these test {things} and seeds can show",
            lambda r: True,
        ),
    ),
    COPIES: (
        Rule(YES, "copies or details of real {things} were found", lambda r: bool(r.copies.found)),
        Rule(PARTLY, "a sign short of a copy, as lying nearer to train {things}", lambda r: bool(r.copies.doubts)),
        Rule(UNMEASURED, "part of it was not looked for", lambda r: bool(r.copies.gaps)),
        Rule(UNKNOWN, "train and held-out {things} differ from each other", lambda r: bool(r.copies.unclear)),
        Rule(UNKNOWN, NOISE, looks_wrong),
        Rule(UNKNOWN, FEW_WORDS, is_few),
        Rule(NO, "no copy was found, exact, near or single, and no closeness to train {things}", lambda r: True),
    ),
}
DEMO, PIPELINE, SITE = "demo and teaching", "pipeline tests", "augmentation at the same site"
PARTNER, PUBLICATION = "giving to a partner", "publication"
USES: dict[str, dict[str, tuple[str, ...]]] = {
    DEMO: {LOOKS: (YES, PARTLY), CLASS: (YES, PARTLY), COPIES: (NO, UNKNOWN)},
    PIPELINE: {COPIES: (NO, UNKNOWN)},
    SITE: {CLASS: (YES, PARTLY), HELPS: (YES,)},
    PARTNER: {LOOKS: (YES, PARTLY), CLASS: (YES, PARTLY), VARIED: (YES, PARTLY), COPIES: (NO,)},
    PUBLICATION: {
        LOOKS: (YES, PARTLY),
        CLASS: (YES, PARTLY),
        VARIED: (YES, PARTLY),
        HELPS: (YES, PARTLY, UNKNOWN),
        COPIES: (NO,),
    },
}
"""What each use asks of the answers. What was not measured is never among them."""


@dataclass(frozen=True)
class Answer:
    """`word` to the question `title`, why, and the numbers behind it with their floors, the most telling one first."""

    question: str
    title: str
    word: str
    why: str
    numbers: tuple[str, ...]

    @property
    def tone(self) -> str:
        """Its colour: of the question on copies yes is bad, of the others no."""
        fine, wrong = (NO, YES) if self.question == COPIES else (YES, NO)
        return {fine: GOOD, PARTLY: FAIR, wrong: BAD}.get(self.word, OPEN)

    @property
    def icon(self) -> str:
        return ICONS[self.tone]


@dataclass(frozen=True)
class Use:
    """Whether a set is suitable for something, and why."""

    name: str
    suitable: bool
    reason: str


@dataclass(frozen=True)
class Step:
    """What would mend the worst finding: in words, and as commands."""

    words: str
    commands: list[str]


@dataclass(frozen=True)
class Verdict:
    """The block at the head of a report."""

    headline: str
    answers: list[Answer]
    uses: list[Use]
    step: Step

    @property
    def words(self) -> dict[str, str]:
        """Question to answer."""
        return {answer.question: answer.word for answer in self.answers}

    @property
    def suitable_for(self) -> list[str]:
        """The uses that nothing speaks against."""
        return [use.name for use in self.uses if use.suitable]

    def lines(self) -> Iterator[str]:
        """The block as plain text."""
        yield self.headline
        for answer in self.answers:
            numbers = f" [{'; '.join(answer.numbers)}]" if answer.numbers else ""
            yield f"  {answer.icon} {answer.title:22} {answer.word}: {answer.why}{numbers}"
        for use in self.uses:
            yield f"  {'' if use.suitable else 'not '}suitable for {use.name}: {use.reason}"
        yield f"next: {self.step.words}"
        yield from (f"    {command}" for command in self.step.commands)


def judge(evidence: dict[str, Any], classifiers: list[dict[str, Any]] | None = None, source: str = "") -> Verdict:
    """The verdict on the set that an evidence.json is about; arguments as of `read_evidence`."""
    readings = read_evidence(evidence, classifiers, source)
    answers = [answer(question, readings) for question in RULES]
    words = {one.question: one.word for one in answers}
    uses = [judge_use(name, answers) for name in USES]
    return Verdict(headline(readings, uses), answers, uses, next_step(words, readings, evidence))


def first_rule(question: str, readings: Readings) -> Rule:
    """The row of a question that holds."""
    return next(rule for rule in RULES[question] if rule.holds(readings))


def answer(question: str, readings: Readings) -> Answer:
    """The answer to a question."""
    rule, title = first_rule(question, readings), QUESTIONS[question]
    title = title if readings.things == IMAGES else title.replace("Looks", "Reads")
    why = rule.words.format(things=readings.things)
    return Answer(question, title, rule.answer, f"{why}{detail(question, readings)}", numbers(question, readings))


def detail(question: str, r: Readings) -> str:
    """What else a reader must know of an answer: which classes, or what was not looked for."""
    if question == CLASS and r.agreement is not None and r.agreement.known and r.agreement.classes:
        return f" ({', '.join(r.agreement.classes)})"
    if question == VARIED and r.repeats and OVERALL not in r.repeats:
        return f" ({', '.join(r.repeats)})"
    if question == VARIED and first_rule(VARIED, r).words == LACKING_WORDS:
        return f" ({', '.join(r.lacks)})"
    if question == COPIES and r.copies.gaps and not r.copies.found and not r.copies.doubts:
        return f": {', '.join(r.copies.gaps)}"
    return ""


def numbers(question: str, r: Readings) -> tuple[str, ...]:
    """The numbers behind an answer, each with its real-vs-real floor; none where nothing was measured."""
    if question == COPIES:
        return r.copies.numbers
    if question == HELPS:
        telling = sorted(r.gains, key=lambda gain: (gain.verdict not in ("helps", "hurts"), -gain.difference))
        return tuple(map(str, telling))
    if question == CLASS:
        one = r.agreement
        return () if one is None else (f"{one.value:.0%} (real ones {one.floor:.0%}, by chance {one.chance:.0%})",)
    if question == LOOKS:
        names = sorted(("distance", "precision", "structure"), key=lambda name: name != first_rule(LOOKS, r).by)
        known = [part for part in map(r.__getattribute__, names) if part is not None]
    else:
        known = sorted((part for part in (r.recall, r.coverage) if part is not None), key=lambda part: part.ratio)
    return tuple(str(part) + times(part is r.distance, part.ratio) for part in known)


def times(is_distance: bool, ratio: float) -> str:
    """`, 2.3 times` of a distance that lies beyond its floor."""
    return f", {shown(ratio)} times" if is_distance and 1 < ratio < float("inf") else ""


def judge_use(name: str, answers: list[Answer]) -> Use:
    """What speaks against a use, else what speaks for it."""
    asked = [(one, one.word in USES[name][one.question]) for one in answers if one.question in USES[name]]
    against = [f"{one.title} {one.word}" for one, good in asked if not good]
    return Use(name, not against, "; ".join(against or [f"{one.title} {one.word}" for one, _ in asked]))


def headline(readings: Readings, uses: list[Use]) -> str:
    """One sentence: how few there are where they are few, and what they are suitable for."""
    fit = [use.name for use in uses if use.suitable]
    words = f"As far as was measured, suitable for {', '.join(fit) or 'nothing on the list'}."
    if not is_few(readings):
        return words
    return (
        f"Only few {readings.things} ({readings.n} synthetic, {readings.n_real} held-out): little can be told. {words}"
    )


def next_step(words: dict[str, str], r: Readings, evidence: dict[str, Any]) -> Step:
    """What to do about the worst finding: copies first, then looks, class, variety, then what was not measured."""
    generation = evidence.get("generation") or {}
    made = (generation.get("environment") or {}).get("command") or []
    measured = (evidence.get("environment") or {}).get("command") or []
    generator, data = generation.get("generator") or {}, evidence["data"]
    real, kind = data.get("real") or "DATA_SET", "images" if r.things == IMAGES else "text"
    again = made or ["clinsynth", "generate", kind, "--model", generator.get("model") or "MODEL"]
    if words[COPIES] in (YES, PARTLY):
        command = changed(again, dataset=real, reject_copies="true", output_dir=None)
        return Step("draw anew what is a copy, then evaluate the new set", [command])
    if words[LOOKS] == NO:
        return Step(*longer_training(generator, real, r))
    if is_few(r):
        command = changed(again, counts=None, balance_to=None, per_class=str(FEW), output_dir=None)
        return Step(f"make at least {FEW} a class, and hold out as many real ones", [command])
    if words[CLASS] in (NO, PARTLY):
        flag = "keep_if_class" if r.things == IMAGES else "verify_labels"
        trainer = "image-classifier" if r.things == IMAGES else "text-classifier"
        train = f"clinsynth train {trainer} --dataset {shlex.quote(real)} --arms real --output_dir runs/label-check"
        command = changed(again, **{flag: "runs/label-check/best-real"}, output_dir=None)
        return Step("draw anew what a classifier of real samples takes for another class", [train, command])
    if words[VARIED] in (NO, PARTLY) or words[LOOKS] == PARTLY:
        return Step(*longer_training(generator, real, r))
    if UNMEASURED in (words[LOOKS], words[CLASS], words[VARIED], words[COPIES]):
        base = measured or ["clinsynth", "evaluate", kind]
        more = {"classifier": "small-resnet", "classifier_seeds": "3"} if r.things == IMAGES else {}
        return Step("measure what is missing, with this version", [changed(base, **more)])
    if words[HELPS] != YES:
        trainer = "image-classifier" if r.things == IMAGES else "text-classifier"
        command = f"clinsynth train {trainer} --dataset {shlex.quote(real)} --synthetic "
        command += f"{shlex.quote(str(data.get('synthetic') or 'SYNTHETIC'))} --seeds 5 --output_dir runs/arms"
        return Step("ask whether they help, in five seeds beside the strongest control", [command])
    folder = measured[measured.index("--output_dir") + 1] if "--output_dir" in measured else "EVIDENCE"
    push = ["clinsynth", "push", "dataset", str(data.get("synthetic") or "SYNTHETIC")]
    command = shlex.join([*push, "--repo_id", "OWNER/NAME", "--evidence", folder])
    return Step("nothing must be mended; a push asks the gate once more", [command])


def longer_training(generator: dict[str, Any], real: str, r: Readings) -> tuple[str, list[str]]:
    """Words and commands that bring a generator nearer to its data."""
    model = str(generator.get("model") or "MODEL")
    if r.things != IMAGES:
        task = str(generator.get("task") or "TASK")
        words = ["clinsynth", "train", "text-lora", "--model", model, "--task", task, "--dataset", real]
        command = shlex.join([*words, "--output_dir", "runs/tuned"])
        return "fine-tune the language model on the real texts, or take a larger one", [command]
    trainer = "gan" if "GAN" in str(generator.get("network")) else "ddpm"
    command = f"clinsynth train {trainer} --config {shlex.quote(f'{model}/config.yaml')} --train_steps N"
    return "train the generator longer: N is at least twice its train_steps", [
        f"{command} --output_dir {shlex.quote(f'{model}-longer')}"
    ]


def changed(command: list[str], **flags: str | None) -> str:
    """A command with other flags: one that is given takes the place of what stood there, None takes it away; a new
    output folder gets the name of the old one and -2."""
    words: list[str] = []
    old, rest = "", iter(command)
    for word in rest:
        name, _, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in flags:
            words.append(word)
            continue
        value = value or next(rest, "")
        old = value if name == "output_dir" else old
    given = {name: value for name, value in flags.items() if value is not None}
    given |= {"output_dir": f"{old or 'runs/synthetic'}-2"} if "output_dir" in flags else {}
    return shlex.join([*words, *(part for name, value in given.items() for part in (f"--{name}", value))])


def rules_as_markdown() -> str:
    """The rules as the tables of docs/verdicts.md."""
    things = "samples"
    lines = []
    for question, rules in RULES.items():
        lines += [f"### {QUESTIONS[question]}", "", "| answer | where |", "|---|---|"]
        lines += [f"| {rule.answer} | {rule.words.format(things=things)} |" for rule in rules] + [""]
    lines += ["### Suitable for", "", "| use | asks |", "|---|---|"]
    for use, needs in USES.items():
        asked = "; ".join(f"{QUESTIONS[question]} {' or '.join(words)}" for question, words in needs.items())
        lines.append(f"| {use} | {asked} |")
    return "\n".join(lines) + "\n"
