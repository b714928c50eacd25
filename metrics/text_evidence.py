"""The evidence on a synthetic text set: fidelity, diversity, privacy, and what they say in words.

Finished parts are kept in the output folder under keys made of their inputs, so that the same command goes on where it
was stopped and a changed input is measured anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from clinsynth.metrics.feature_extractor import hash_arrays
from clinsynth.metrics.image_evidence import FinishedMeasurements
from clinsynth.metrics.measurement import MIN_ROWS, Features, Measurement, MeasurementSettings, comparisons
from clinsynth.metrics.memorisation import MemorisationRecord
from clinsynth.metrics.text_canaries import Canaries, measure_exposure
from clinsynth.metrics.text_diversity import measure_streams
from clinsynth.metrics.text_embedding import TextEncoder, embed_texts, pack_texts
from clinsynth.metrics.text_fidelity import measure_embeddings, measure_label_recovery, measure_tone
from clinsynth.metrics.text_findings import read_texts
from clinsynth.metrics.text_privacy import (
    measure_closeness,
    measure_entities,
    measure_memorisation,
    measure_overlap,
    measure_prompt_overlap,
)
from clinsynth.metrics.text_records import Sides
from clinsynth.metrics.text_repetition import measure_repetition
from clinsynth.metrics.text_words import TextSet, as_rows, word_rows
from clinsynth.run_folder import create_run_folder, describe_environment

SPLITS = ("synthetic", "train", "test")
Records = list[Measurement] | list[MemorisationRecord]
Measure = Callable[..., list[Measurement]]


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
    canaries: Canaries | None = None,
) -> dict[str, Any]:
    """All parts of the evidence as JSON-able records.

    Args:
        synthetic: the set in question, labels numbered as in `label_names`; with the ids of the prompts' examples
            these are compared too.
        real: splits "train" (the generator has seen it) and "test" (it has not).
        encoder: of the embeddings.
        output_dir: keeps measurements.json, and the embeddings where there is no `cache_dir`.
        replicates: of the bootstraps; 0 gives no intervals.
        canaries: sentences planted in the train texts, and others of their kind.

    Returns:
        "data" (counts), "encoder", "fidelity", "diversity" and "privacy" (`Measurement`s beside "test", "train" or
        "prompt"), "memorisation" (`MemorisationRecord`s), "findings" (`text_findings.read_texts`), "environment".

    Raises:
        ValueError: a set has fewer than ten texts, a text without words, or an example that is no train text.
    """
    sets = {"synthetic": synthetic, "train": real["train"], "test": real["test"]}
    check_sets(sets)
    output_dir = create_run_folder(output_dir)
    settings = MeasurementSettings(encoder.name, replicates, seed)
    views = view(sets, encoder, Path(cache_dir or output_dir) / "features")
    parts = {
        "fidelity": fidelity_parts(views, label_names, settings),
        "diversity": diversity_parts(views, label_names, settings),
        "privacy": privacy_parts(views, sets, label_names, settings, canaries),
        "memorisation": memorisation_parts(views, label_names, settings),
    }
    finished = FinishedMeasurements(output_dir / "measurements.json")
    content = hash_evidence(sets, encoder, settings, label_names, canaries)
    records = {
        name: [
            record
            for key, measure in part
            for record in finished.get(f"{name}, {key}, {content}", partial(as_dicts, measure))
        ]
        for name, part in parts.items()
    }
    measured = [record for name in ("fidelity", "diversity", "privacy") for record in records[name]]
    data = describe_sets(sets, label_names, encoder)
    return {
        "data": data,
        "encoder": {"name": encoder.name, "dimension": encoder.dimension, "note": encoder.note},
        **records,
        "findings": read_texts(measured, records["memorisation"], data["counts"]),
        "environment": describe_environment(),
    }


Part = Iterator[tuple[str, Callable[[], Records]]]
"""Names of measurements, and the functions that take them."""


def fidelity_parts(views: Views, label_names: list[str], settings: MeasurementSettings) -> Part:
    yield from compared(measure_embeddings, views.embeddings, label_names, settings)
    yield from compared(measure_tone, views.words, label_names, settings)
    sides = views.sides("words", label_names)
    yield "label recovery", partial(measure_label_recovery, sides, "train", settings)


def diversity_parts(views: Views, label_names: list[str], settings: MeasurementSettings) -> Part:
    yield from compared(measure_streams, views.words, label_names, settings)
    yield from compared(measure_repetition, views.words, label_names, settings)


def privacy_parts(
    views: Views,
    sets: dict[str, TextSet],
    label_names: list[str],
    settings: MeasurementSettings,
    canaries: Canaries | None,
) -> Part:
    yield "closeness", partial(measure_closeness, views.sides("embeddings", label_names), settings)
    yield "overlap", partial(measure_overlap, views.sides("words", label_names), settings)
    synthetic, train, test = (sets[name] for name in SPLITS)
    yield "prompt", partial(measure_prompt_overlap, synthetic, train, test, label_names, settings)
    yield "entities", partial(measure_entities, views.sides("texts", label_names), settings)
    if canaries is not None:
        yield "canaries", partial(measure_exposure, synthetic.texts, canaries, settings)


def memorisation_parts(views: Views, label_names: list[str], settings: MeasurementSettings) -> Part:
    sides = [views.embeddings[name] for name in SPLITS]
    yield "closest", partial(measure_memorisation, sides[0], sides[1], sides[2], label_names, settings)


def compared(
    measure: Measure, sides: dict[str, Features], label_names: list[str], settings: MeasurementSettings
) -> Part:
    """A measurement beside test and beside train, overall on matched label mixes and a class."""
    for reference, other in (("test", "train"), ("train", "test")):
        rows = comparisons(sides["synthetic"], sides[reference], sides[other], label_names, settings.seed)
        for label, synthetic, real, held_out in rows:
            taken = partial(measure, label, reference, synthetic, real, held_out, settings)
            yield f"{measure.__name__}, {reference}, {label}", taken


def as_dicts(measure: Callable[[], Records]) -> list[dict[str, Any]]:
    """What `measure` finds, as it stands in evidence.json."""
    return [record.to_dict() for record in measure()]


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
    for name, side in sets.items():
        rows = embed_texts(encoder, side.texts, folder, f"embeddings, {name}")
        views.embeddings[name] = Features(rows, side.labels)
        views.words[name] = Features(word_rows(side.texts), side.labels)
        views.texts[name] = Features(as_rows(side.texts), side.labels)
    return views


def hash_evidence(
    sets: dict[str, TextSet],
    encoder: TextEncoder,
    settings: MeasurementSettings,
    label_names: list[str],
    canaries: Canaries | None,
) -> str:
    """Hash of all that the measurements depend on: 16 hexadecimal digits."""
    contents = [
        part
        for side in sets.values()
        for part in (pack_texts([*side.texts, *side.ids]), side.labels, f"{side.example_ids}")
    ]
    planted = None if canaries is None else asdict(canaries)
    return hash_arrays(*contents, encoder.fingerprint, f"{settings}{label_names}{planted}")[:16]


def describe_sets(sets: dict[str, TextSet], label_names: list[str], encoder: TextEncoder) -> dict[str, Any]:
    """Texts a class and set, mean words a text, and the share of texts that the encoder cuts."""
    counts = {
        name: dict(zip(label_names, np.bincount(side.labels, minlength=len(label_names)).tolist(), strict=True))
        for name, side in sets.items()
    }
    words = {name: float(np.mean([len(words) for words in word_rows(side.texts)])) for name, side in sets.items()}
    cut = {name: float((encoder.count_tokens(side.texts) > encoder.most_tokens).mean()) for name, side in sets.items()}
    return {"label_names": label_names, "counts": counts, "words_a_text": words, "cut_by_encoder": cut}
