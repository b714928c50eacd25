"""The steps of a study: each one command of clinsynth with one folder, and a key hashed from all that goes into it.

A step whose folder is marked with its key is not run again. A changed line of the recipe changes the keys of the steps
that depend on it, and of no other: only those are repeated. What an interrupted step had done is found again by its
own command, which resumes.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonargparse

from clinsynth import __version__
from clinsynth.arguments import build_parser
from clinsynth.cli import find_command, load_command
from clinsynth.plain_yaml import cut
from clinsynth.study.arguments import TEXTS

if TYPE_CHECKING:
    from clinsynth.study.arguments import StudyArguments

MARK = "step.json"


@dataclass(frozen=True)
class Step:
    """One command of a study.

    Attributes:
        name: what it is called in the report, e.g. "train ddpm".
        command: words of the clinsynth command, e.g. ("train", "ddpm").
        flags: its flags but --output_dir.
        key: hash of command, flags, version and inputs: 8 hexadecimal digits.
        inputs: the hash of the data, and the keys of the steps that it needs.
        output_dir: its folder. The name of a trainer's and of a generator's ends in the key; evaluations and
            classifiers have one folder each, in which their commands keep what is still valid.
    """

    name: str
    command: tuple[str, ...]
    flags: dict[str, Any]
    key: str
    output_dir: Path
    inputs: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """The command line after `clinsynth`."""
        values = {name: value if isinstance(value, str) else json.dumps(value) for name, value in self.flags.items()}
        flags = [word for name, value in values.items() for word in (f"--{name}", value)]
        return [*self.command, *flags, "--output_dir", str(self.output_dir)]

    @property
    def shown(self) -> str:
        """The step as a user would type it."""
        return shlex.join(["clinsynth", *self.words])

    @property
    def finished(self) -> bool:
        mark = self.output_dir / MARK
        return mark.exists() and json.loads(mark.read_text())["key"] == self.key


@dataclass(frozen=True)
class Plan:
    """All steps in the order in which they run, and whose output is whose; a generator has a synthetic set a draw."""

    steps: list[Step]
    judges: dict[str, Step]
    trained: dict[str, Step]  # but for generators that are prompted as they are; that of `of` where one draws anew
    generated: dict[str, list[Step]]
    evaluated: dict[str, list[Step]]
    audited: dict[str, Step]
    classified: dict[str, Step]


def plan_study(args: StudyArguments) -> Plan:
    """Turn a recipe into steps, and check every step's flags before the first one runs.

    Raises:
        ValueError: a step's flags that its command refuses; names the step, the flag and the mend.
    """
    plan = Plan([], {}, {}, {}, {}, {}, {})
    data_key = fingerprint_data(args.dataset)
    for name, flags in args.judges.items():
        flags = {**changed_data_flags(args), "seed": args.seed, "arms": "real", **flags}
        plan.judges[name] = make_step(args, f"train judge {name}", args.kind.classify, flags, [data_key])
    plan.steps.extend(plan.judges.values())
    for name in args.generators:
        plan.steps.extend(plan_generator(args, name, plan, data_key))
    for name in args.classifiers:
        plan.classified[name] = plan_classifier(args, name, plan, data_key)
    plan.steps.extend(plan.classified.values())
    for step in plan.steps:
        check_flags(step)
    check_resources(args, plan.steps)
    return plan


def plan_generator(args: StudyArguments, name: str, plan: Plan, data_key: str) -> Iterator[Step]:
    """The steps of one generator in their order: training, each draw and its evaluation, the attack on its loss."""
    recipe = args.generators[name]
    train = recipe.get("train", {})
    data = {**changed_data_flags(args), **{flag: train[flag] for flag in train if flag in args.kind.data_flags}}
    trained = plan_training(args, name, plan, data, data_key)
    if trained is not None:
        plan.trained[name] = trained
        yield from [trained] if trained not in plan.steps else []
    plan.generated[name], plan.evaluated[name] = [], []
    for draw in range(args.draws):
        numbered = f"{name} draw {draw + 1}" if draw else name
        flags, judges = with_judges(generate_flags(args, recipe, trained, data, draw), plan)
        inputs = [data_key, *([trained.key] if trained else []), *judges]
        generated = make_step(args, f"generate {numbered}", args.kind.generate, flags, inputs)
        flags = evaluate_flags(args, generated, data)
        evaluated = make_step(args, f"evaluate {numbered}", args.kind.evaluate, flags, [data_key, generated.key])
        plan.generated[name].append(generated)
        plan.evaluated[name].append(evaluated)
        yield from (generated, evaluated)
    if trained is not None and recipe["trainer"] in args.kind.audited:
        flags = {"model": str(trained.output_dir), **data, "seed": args.seed, **args.audit}
        plan.audited[name] = make_step(args, f"audit {name}", ("audit", "membership"), flags, [data_key, trained.key])
        yield plan.audited[name]


def plan_training(args: StudyArguments, name: str, plan: Plan, data: dict[str, Any], data_key: str) -> Step | None:
    """The step that trains a generator, None where a model is taken as it comes."""
    recipe = args.generators[name]
    base = plan.trained[recipe["of"]] if "of" in recipe else None
    command = args.kind.trainers[recipe["trainer"]]
    if command is None:
        return base
    model = {"model": str(base.output_dir)} if base else {}
    flags, judges = with_judges(recipe.get("train", {}), plan)
    flags = {**model, **data, "seed": args.seed, **shared_flags(args), **flags}
    return make_step(args, f"train {name}", command, flags, [data_key, *([base.key] if base else []), *judges])


def with_judges(flags: dict[str, Any], plan: Plan) -> tuple[dict[str, Any], list[str]]:
    """Flags with the folder of each classifier that is named as judges/NAME, and these judges' keys.

    Raises:
        ValueError: the recipe has no such judge.
    """
    found, keys = dict(flags), []
    for flag, value in flags.items():
        if isinstance(value, str) and value.startswith("judges/"):
            name = value.removeprefix("judges/")
            if name not in plan.judges:
                known = ", ".join(plan.judges) or "none"
                raise ValueError(f"{flag}: {value} names no judge of the recipe; judges: has {known}")
            step = plan.judges[name]
            found[flag] = str(step.output_dir / f"best-{step.flags['arms'].split(',')[0]}")
            keys.append(step.key)
    return found, keys


def plan_classifier(args: StudyArguments, name: str, plan: Plan, data_key: str) -> Step:
    """The step that trains one classifier in its arms, on the first draw of its generators; those in brackets of
    their own are trainings of one, the first gives the name."""
    flags = dict(args.classifiers[name])
    trips = {other["round_trip"] for other in args.classifiers.values() if "round_trip" in other}
    generators = flags.pop("generators", [generator for generator in plan.generated if generator not in trips])
    together = [[own] if isinstance(own, str) else own for own in generators]
    sources = [(own[0], plan.generated[generator][0]) for own in together for generator in own]
    synthetic = ",".join(f"{name}={step.output_dir}" for name, step in sources)
    sets = {"synthetic": synthetic} if synthetic else {}
    inputs = [data_key, *(step.key for _, step in sources)]
    if "round_trip" in flags:
        step = plan.generated[flags["round_trip"]][0]
        flags["round_trip"] = str(step.output_dir)
        inputs.append(step.key)
    if "ceiling" in flags:
        step = plan.classified[flags["ceiling"]]
        flags["ceiling"] = str(step.output_dir)
        inputs.append(step.key)
    if flags.get("features_from") == "model":
        flags = {"cache_dir": str(Path(args.output_dir) / "classify-cache"), **flags}
    flags = {**changed_data_flags(args), **sets, "seed": args.seed, **flags}
    return make_step(args, f"classify {name}", args.kind.classify, flags, inputs)


def shared_flags(args: StudyArguments) -> dict[str, Any]:
    """Flags of the study that trainers and `generate` share, where they are given."""
    return {name: getattr(args, name) for name in args.kind.shared if getattr(args, name) is not None}


def generate_flags(
    args: StudyArguments, recipe: dict[str, Any], trained: Step | None, data: dict[str, Any], draw: int
) -> dict[str, Any]:
    """Flags of the step that draws a generator's synthetic set; each draw, counted from 0, has the next seed."""
    flags = {"seed": args.seed, **args.generate, **recipe.get("generate", {})}
    flags["seed"] += draw
    if flags.get("from_images") == "dataset":
        flags["from_images"] = args.dataset
    needs_data = args.kind is TEXTS or flags.keys() & {"balance_to", "reject_copies"}  # texts take its labels
    if "from_images" in flags:
        names = args.kind.data_flags.keys() - args.kind.left_out
        flags = {**{flag: data[flag] for flag in sorted(names & data.keys())}, **flags}
    model = {"model": str(trained.output_dir)} if trained else {}
    return {**shared_flags(args), **model, **(data if needs_data else {}), **flags}


def evaluate_flags(args: StudyArguments, generated: Step, data: dict[str, Any]) -> dict[str, Any]:
    """Flags of the step that holds a synthetic set against the real one; classifiers have steps of their own."""
    names = args.kind.data_flags.keys() - args.kind.left_out
    return {
        "real": args.dataset,
        "synthetic": str(generated.output_dir),
        **{flag: data[flag] for flag in sorted(names & data.keys())},
        **({} if args.kind is TEXTS else {"classifier": "none"}),
        "seed": args.seed,
        "cache_dir": str(Path(args.output_dir) / "evaluate-cache"),
        **args.evaluate,
    }


def make_step(
    args: StudyArguments, name: str, command: tuple[str, ...], flags: dict[str, Any], inputs: list[str]
) -> Step:
    """A step with the hash of its command, flags and inputs."""
    # Folders of earlier steps stand in the flags; their keys stand for them, so that a study may be moved.
    prefix = str(Path(args.output_dir))
    described = json.dumps([command, flags, __version__], sort_keys=True).replace(prefix, "")
    key = hashlib.sha256("\n".join([described, *inputs]).encode()).hexdigest()[:8]
    folder = name.replace(" ", "-")
    if name.startswith(("train ", "generate ")):  # their commands refuse a folder begun with other settings
        folder = f"{folder}-{key}"
    return Step(name, command, flags, key, Path(args.output_dir) / folder, tuple(inputs))


def changed_data_flags(args: StudyArguments) -> dict[str, Any]:
    """The data flags of the recipe that are not at their defaults, and --dataset always."""
    flags = args.kind.data_flags
    changed = {name: getattr(args, name) for name, default in flags.items() if getattr(args, name) != default}
    return {"dataset": args.dataset, **changed}


def fingerprint_data(spec: str) -> str:
    """Hash of a data set's spec and, where it is a file or a folder, of the names and contents of its files.

    Times are left out: a data set that was copied or checked out anew is still the same.
    """
    path, lines = Path(spec), [spec]
    files = [path, *path.rglob("*")]  # a name on the Hub or of a built-in set is none
    for file in sorted(file for file in files if file.is_file()):
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        lines.append(f"{file.relative_to(path) if path.is_dir() else file.name} {digest}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def check_flags(step: Step) -> None:
    """Let the step's own parser and dataclass judge its flags.

    Raises:
        ValueError: what they refuse.
    """
    parser, arguments_class = parser_of(step.command)
    try:
        values = parser.parse_args(step.words[len(step.command) :]).as_dict()
        values.pop("config")
        arguments_class(**values)
    except (jsonargparse.ArgumentError, ValueError) as error:
        hint = f"`clinsynth {' '.join(step.command)} --help` explains its flags"
        raise ValueError(f"the recipe's step {step.name!r}: {error}; {hint}") from error


def check_resources(args: StudyArguments, steps: list[Step]) -> None:
    """Raise a `ValueError` for resources of a step that the recipe does not have."""
    known = dict.fromkeys(["all", *(step.name.split()[0] for step in steps), *(step.name for step in steps)])
    for name in args.resources:
        if name not in known:
            raise ValueError(f"resources: {cut(name)} is no step of the recipe; it takes {', '.join(known)}")


@functools.cache
def parser_of(command: tuple[str, ...]) -> tuple[jsonargparse.ArgumentParser, type]:
    """The parser of a command, which raises its errors, and the dataclass of its flags."""
    _, arguments_class = load_command(find_command(command))
    parser = build_parser(arguments_class)
    parser.exit_on_error = False
    return parser, arguments_class
