"""The evidence on a synthetic text set: fidelity, diversity, privacy, and what they say in words.

Finished parts are kept in the output folder under keys made of their inputs, so that the same command goes on where it
was stopped and a changed input is measured anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clinsynth.data.texts import TextSet, as_objects
from clinsynth.metrics.comparisons import Sides, comparisons
from clinsynth.metrics.distances import measure_embeddings
from clinsynth.metrics.findings import COPIES, LEAKS, add_finding, read_texts
from clinsynth.metrics.privacy.attacks import attack_table
from clinsynth.metrics.privacy.closest_records import MemorisationRecord
from clinsynth.metrics.privacy.exact import count_exact, text_digests, where_found
from clinsynth.metrics.privacy.power import TEXT_CHECK, power_in_words
from clinsynth.metrics.records import MIN_ROWS, Features, Measurement, MeasurementSettings, as_dicts, count_classes
from clinsynth.metrics.texts import fidelity, privacy
from clinsynth.metrics.texts.diversity import measure_repetition, measure_streams
from clinsynth.metrics.texts.entities import common_words, measure_entities
from clinsynth.metrics.texts.single_copies import ENTITY_KINDS, KINDS, measure_single_copies
from clinsynth.metrics.texts.words import word_rows
from clinsynth.models.image_encoders import hash_arrays
from clinsynth.models.text_encoders import TextEncoder, TextModel, embed_all, embed_texts, pack_texts
from clinsynth.progress import Announce, no_announcement
from clinsynth.run_folder import Kept, create_run_folder, describe_environment
from clinsynth.synthesis.sets import WROTE_TEXTS, SetReader

if TYPE_CHECKING:
    from clinsynth.study.arguments import EvaluateTextArguments

STAGES = (
    "both sets",
    "embeddings",
    "fidelity",
    "diversity",
    "privacy",
    "memorisation",
    "perplexity",
    "closest pairs",
    "report",
)
SPLITS = ("synthetic", "train", "test")
REFERENCES = (("test", "train"), ("train", "test"))
"""A real split that is compared with, and the one that makes its held-out floor."""
Records = list[Measurement] | list[MemorisationRecord]
Measure = Callable[..., list[Measurement]]


def text_evidence(
    synthetic: TextSet,
    real: dict[str, TextSet],
    label_names: list[str],
    encoder: TextEncoder,
    output_dir: str | Path,
    *,
    cache_dir: str | Path | None = None,
    replicates: int = 200,
    seed: int = 0,
    canaries: privacy.Canaries | None = None,
    language_model: TextModel | None = None,
    begins: Announce = no_announcement,
) -> dict[str, Any]:
    """All parts of the evidence as JSON-able records.

    Args:
        synthetic: the set in question, labels numbered as in `label_names`; with the ids of the prompts' examples
            these are compared too.
        real: splits "train" (the generator has seen it), "test" (it has not) and, for exact copies, "validation".
        encoder: of the embeddings.
        output_dir: keeps measurements.json, and the embeddings where there is no `cache_dir`.
        replicates: of the bootstraps; 0 gives no intervals.
        canaries: sentences planted in the train texts, and others of their kind.
        language_model: measures the perplexity gap; without it that is left out.
        begins: is told when each of STAGES begins.

    Returns:
        "data" (counts), "encoder", "language_model" (or None), "fidelity", "diversity" and "privacy" (`Measurement`s
        beside "test", "train" or "prompt"), "exact" (exact copies by split), "copies" and "power"
        (`measure_single_copies`), "attacks" (`attack_table`), "memorisation" (`MemorisationRecord`s), "closest" and
        "distributions" (`closest_pairs`), "findings" (`read_texts`), "environment". None of it holds a text.

    Raises:
        ValueError: a set has fewer than ten texts, a text without words, or an example that is no train text.
    """
    sets = {"synthetic": synthetic, "train": real["train"], "test": real["test"]}
    check_sets(sets)
    output_dir = create_run_folder(output_dir)
    settings = MeasurementSettings(encoder.name, replicates, seed)
    folder = Path(cache_dir or output_dir) / "features"
    begins("embeddings")
    views = view(sets, encoder, folder)
    parts: dict[str, Iterable[Named]] = {**parts_of(views, sets, label_names, encoder, settings, canaries)}
    if language_model is not None:
        parts["perplexity"] = perplexity_part(sets, language_model, folder, label_names, settings)
    finished = Kept(output_dir / "measurements.json")
    content = hash_evidence(sets, encoder, settings, label_names, canaries)
    records: dict[str, list[dict[str, Any]]] = {}
    for name, part in parts.items():
        begins(name)
        kept = (finished.get(f"{name}, {key}, {content}", partial(as_dicts, measure)) for key, measure in part)
        records[name] = [record for found in kept for record in found]
    begins("closest pairs")
    records["fidelity"] += records.pop("perplexity", [])
    data = describe_sets(sets, label_names, encoder)
    rows = {name: side.rows for name, side in views.embeddings.items()}
    exact = count_exact(text_digests(synthetic.texts), {name: text_digests(side.texts) for name, side in real.items()})
    made, seen, unseen = (views.embeddings[name] for name in SPLITS)
    single = finished.get(f"single copies, {content}", partial(single_copies, sets, seed))
    return {
        "data": data,
        "encoder": describe_model(encoder),
        "language_model": None if language_model is None else describe_model(language_model),
        **records,
        "exact": exact,
        **single,
        "attacks": finished.get(f"attacks, {content}", partial(attack_table, made, seen, unseen, seed)),
        "closest": privacy.closest_pairs(synthetic, sets["train"], rows["synthetic"], rows["train"]),
        "distributions": privacy.describe_distributions(sets, rows),
        "findings": text_findings(records, single, exact, data["counts"]),
        "environment": describe_environment(),
    }


def single_copies(sets: dict[str, TextSet], seed: int) -> dict[str, Any]:
    """`measure_single_copies` of the three sets."""
    synthetic, train, held_out = (sets[name].texts for name in SPLITS)
    return measure_single_copies(synthetic, train, held_out, common_words([*train, *held_out]), seed)


def text_findings(
    records: dict[str, list[dict[str, Any]]], single: dict[str, Any], exact: dict[str, Any], counts: dict[str, Any]
) -> dict[str, Any]:
    """`read_texts`, and what was found of single and exact copies, and could have been."""
    measured = [record for name in ("fidelity", "diversity", "privacy") for record in records[name]]
    findings = read_texts(measured, records["memorisation"], counts)
    near = "{} of {} are nearer to a train text than real ones come."
    copied = [near.format(one["count"], one["n_synthetic"]) for one in single["copies"] if one["count"]]
    add_finding(findings[COPIES], copied)
    for name, kinds in ((COPIES, KINDS), (LEAKS, ENTITY_KINDS)):
        power = [one for one in single["power"] if one["kind"] in kinds]
        findings[name]["sentence"] += f" {power_in_words(power, exact['n_synthetic'], TEXT_CHECK)}"
    if exact["count"]:
        found = f"{exact['count']} of {exact['n_synthetic']} are real texts ({where_found(exact)}), word for word."
        add_finding(findings[COPIES], [found])
    return findings


Named = tuple[str, Callable[[], Records]]
"""A measurement's name, and the function that takes it."""
Part = Iterator[Named]


def parts_of(
    views: Views,
    sets: dict[str, TextSet],
    label_names: list[str],
    encoder: TextEncoder,
    settings: MeasurementSettings,
    canaries: privacy.Canaries | None,
) -> dict[str, list[Named]]:
    """The measurements of each part of the evidence, in order."""

    def beside(measure: Measure, view: dict[str, Features]) -> Part:
        return compared(measure, view, label_names, settings)

    words, synthetic, train = views.sides("words", label_names), sets["synthetic"], sets["train"]
    tokens = {name: fidelity.TokenView(rows, encoder, name) for name, rows in views.texts.items()}
    prompts = partial(privacy.measure_prompt_overlap, synthetic, train, sets["test"], label_names, settings)
    made, seen, unseen = (views.embeddings[name] for name in SPLITS)
    planted = (
        [("canaries", partial(privacy.measure_exposure, synthetic.texts, canaries, settings))] if canaries else []
    )
    return {
        "fidelity": [
            *beside(measure_embeddings, views.embeddings),
            *beside(fidelity.measure_mauve, views.embeddings),
            ("bertscore", partial(fidelity.measure_bertscore, tokens, REFERENCES, label_names, settings)),
            *beside(fidelity.measure_tone, views.words),
            ("label recovery", partial(fidelity.measure_label_recovery, words, "train", settings)),
        ],
        "diversity": [*beside(measure_streams, views.words), *beside(measure_repetition, views.words)],
        "privacy": [
            ("closeness", partial(privacy.measure_closeness, views.sides("embeddings", label_names), settings)),
            ("overlap", partial(privacy.measure_overlap, words, settings)),
            ("prompt", prompts),
            ("entities", partial(measure_entities, views.sides("texts", label_names), settings)),
            *planted,
        ],
        "memorisation": [("closest", partial(privacy.measure_closest, made, seen, unseen, label_names, settings))],
    }


def perplexity_part(
    sets: dict[str, TextSet], model: TextModel, folder: Path, label_names: list[str], settings: MeasurementSettings
) -> Part:
    """The perplexity gap, from losses (n, 1) of at most 200 texts of each set, which are kept in `folder`."""
    losses = {}
    for name, side in sets.items():
        rows = fidelity.draw_rows(len(side), fidelity.MOST_SCORED, settings.seed)
        drawn = [side.texts[row] for row in rows]
        persons = None if side.persons is None else side.persons[rows]
        losses[name] = Features(embed_texts(model, drawn, folder, f"losses, {name}"), side.labels[rows], persons)
    settings = replace(settings, extractor=model.name)
    for key, measure in compared(fidelity.measure_perplexity, losses, label_names, settings):
        yield f"{key}, {hash_arrays(model.fingerprint)[:8]}", measure


def compared(
    measure: Measure, sides: dict[str, Features], label_names: list[str], settings: MeasurementSettings
) -> Part:
    """A measurement beside test and beside train, overall on matched label mixes and a class."""
    for reference, other in REFERENCES:
        for comparison in comparisons(sides, reference, other, label_names, settings.seed):
            yield f"{measure.__name__}, {reference}, {comparison.label}", partial(measure, comparison, settings)


def describe_model(model: TextModel) -> dict[str, Any]:
    return {"name": model.name, "dimension": model.dimension, "note": model.note}


def hash_evidence(
    sets: dict[str, TextSet],
    encoder: TextEncoder,
    settings: MeasurementSettings,
    label_names: list[str],
    canaries: privacy.Canaries | None,
) -> str:
    """Hash of all that the measurements depend on: 16 hexadecimal digits."""
    contents = [
        part
        for side in sets.values()
        for part in (pack_texts([*side.texts, *side.ids]), side.labels, f"{side.example_ids}", whose(side))
    ]
    planted = None if canaries is None else asdict(canaries)
    return hash_arrays(*contents, encoder.fingerprint, f"{settings}{label_names}{planted}")[:16]


def whose(side: TextSet) -> str:
    """Whose its texts are, as text."""
    return "" if side.persons is None else str(side.persons.tolist())


HINT = f"give the folder that `{WROTE_TEXTS}` wrote"
READ_SPLITS = ("train", "validation", "test")


def load_real_texts(args: EvaluateTextArguments) -> tuple[dict[str, TextSet], list[str], list[str]]:
    """Splits train, validation and test of `--real`, the names of the classes, and notes on the way in."""
    from clinsynth.data.arguments import TextDataArguments
    from clinsynth.data.texts import open_text_dataset

    flags = {each.name: getattr(args, each.name) for each in fields(TextDataArguments) if each.name != "dataset"}
    try:
        loaded = open_text_dataset(TextDataArguments(dataset=args.real, **flags), args.seed)
    except ValueError as error:
        raise ValueError(str(error).replace("--dataset", "--real")) from error
    splits = loaded.splits
    names = list(splits["train"].features["label"].names)
    return {name: TextSet.of(splits[name]) for name in READ_SPLITS}, names, loaded.notes


def load_canaries(path: str | None, generation: dict[str, Any] | None) -> privacy.Canaries | None:
    """The sentences in the file `path`; where none is given, those that the generator was fine-tuned with, if any.

    Raises:
        ValueError: no such file, or not what `clinsynth train text-lora --canaries` writes.
    """
    if path is None:
        generator = (generation or {}).get("generator") or {}
        own = Path(str(generator.get("model", ""))) / "canaries.json"
        if not own.is_file():
            return None
        path = str(own)
    mend = "give the canaries.json of a folder that `clinsynth train text-lora --canaries` wrote"
    try:
        return privacy.Canaries(**json.loads(Path(path).read_text()))
    except FileNotFoundError as error:
        raise ValueError(f"--canaries {path}: there is no such file; {mend}") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"--canaries {path} is not a list of canaries ({error}); {mend}") from error


def load_synthetic_texts(folder: Path, label_names: list[str]) -> TextSet:
    """The Parquet shards of `folder`, labels numbered as in `label_names`; some of these may have no text.

    Columns text (string) and label (with class names, or names themselves); example_ids and id where they are there.

    Raises:
        ValueError: no folder, shard, row or column of that kind, an empty text, or a class that the real set lacks.
    """
    reader = SetReader.open(folder, WROTE_TEXTS)
    for column in ("text", "label"):
        if column not in reader.columns:
            raise ValueError(
                f"--synthetic {folder} has no column {column!r}; it has {', '.join(reader.columns)}: {HINT}"
            )
    dataset, given = reader.dataset(), reader.label_names()
    if not given:
        raise ValueError(f"--synthetic {folder} holds no text; {HINT}")
    texts = dataset["text"][:]
    empty = next((row for row, text in enumerate(texts) if not isinstance(text, str) or not text.strip()), None)
    if empty is not None:
        raise ValueError(f"--synthetic {folder}: row {empty} holds no text; leave it out, or generate the set again")
    unknown = sorted(set(given) - set(label_names))
    if unknown:
        raise ValueError(
            f"--synthetic {folder} has labels {', '.join(sorted(set(given)))}, --real has {', '.join(label_names)}: "
            f"{', '.join(unknown)} is not among these; give the --real that the texts were made for, or name its "
            "classes in the order of their numbers with --label_names"
        )
    numbers = [label_names.index(name) for name in given]
    dataset = dataset.remove_columns("label").add_column("label", numbers)
    made = TextSet.of(dataset)
    return replace(made, labels=np.asarray(numbers, dtype=np.int64))


@dataclass(frozen=True)
class Views:
    """Features of "synthetic", "train" and "test" as the measures take them: embeddings, lists of words, texts."""

    embeddings: dict[str, Features]
    words: dict[str, Features]
    texts: dict[str, Features]

    def sides(self, name: str, label_names: list[str]) -> Sides:
        """One view of the synthetic texts beside train, the test split held out."""
        view: dict[str, Features] = getattr(self, name)
        return Sides(view["synthetic"], view["train"], view["test"], label_names)


def check_sets(sets: dict[str, TextSet]) -> None:
    """Raise a `ValueError` that names the set in which nothing can be measured."""
    for name, side in sets.items():
        if len(side) < MIN_ROWS:
            raise ValueError(f"the {name} set must hold {MIN_ROWS} texts or more, got {len(side)}; add texts")
        empty = next((row for row, words in enumerate(word_rows(side.texts)) if not words), None)
        if empty is not None:
            raise ValueError(f"text {side.ids[empty]} of the {name} set (row {empty}) holds no word; leave it out")


def view(sets: dict[str, TextSet], encoder: TextEncoder, folder: Path) -> Views:
    """All views of the three sets; embeddings are kept in `folder`."""
    views = Views({}, {}, {})
    rows = embed_all(encoder, sets, folder)
    for name, side in sets.items():
        views.embeddings[name] = Features(rows[name], side.labels, side.persons)
        views.words[name] = views.embeddings[name].of(word_rows(side.texts))
        views.texts[name] = views.embeddings[name].of(as_objects(side.texts))
    return views


def describe_sets(sets: dict[str, TextSet], label_names: list[str], encoder: TextEncoder) -> dict[str, Any]:
    """Texts a class and set, mean words a text, and the share of texts that the encoder cuts."""
    counts = {name: count_classes(side.labels, label_names) for name, side in sets.items()}
    words = {name: float(np.mean([len(words) for words in word_rows(side.texts)])) for name, side in sets.items()}
    cut = {name: float((encoder.count_tokens(side.texts) > encoder.most_tokens).mean()) for name, side in sets.items()}
    return {"label_names": label_names, "counts": counts, "words_a_text": words, "cut_by_encoder": cut}
