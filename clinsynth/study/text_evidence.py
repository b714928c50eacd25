"""The evidence on a synthetic text set: fidelity, diversity, privacy, and what they say in words.

Finished parts are kept in the output folder under keys made of their inputs, so that the same command goes on where it
was stopped and a changed input is measured anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from clinsynth.metrics.finished import FinishedMeasurements
from clinsynth.metrics.privacy.memorisation import MemorisationRecord
from clinsynth.metrics.records import Features, Measurement, MeasurementSettings, comparisons
from clinsynth.metrics.texts.canaries import Canaries, measure_exposure
from clinsynth.metrics.texts.diversity import measure_streams
from clinsynth.metrics.texts.fidelity import measure_embeddings, measure_label_recovery, measure_tone
from clinsynth.metrics.texts.findings import read_texts
from clinsynth.metrics.texts.model_based import measure_bertscore
from clinsynth.metrics.texts.privacy import (
    measure_closeness,
    measure_entities,
    measure_memorisation,
    measure_overlap,
    measure_prompt_overlap,
)
from clinsynth.metrics.texts.text_closest import closest_pairs, describe_distributions
from clinsynth.metrics.texts.text_mauve import measure_mauve
from clinsynth.metrics.texts.text_perplexity import measure_perplexity
from clinsynth.metrics.texts.text_repetition import measure_repetition
from clinsynth.study.text_views import Views, check_sets, describe_sets, view, view_losses
from clinsynth.metrics.texts.text_words import TextSet
from clinsynth.models.image_encoders import hash_arrays
from clinsynth.models.text_encoders import TextEncoder, TextModel, pack_texts
from clinsynth.run_folder import create_run_folder, describe_environment

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
    canaries: Canaries | None = None,
    language_model: TextModel | None = None,
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
        language_model: measures the perplexity gap; without it that is left out.

    Returns:
        "data" (counts), "encoder", "language_model" (or None), "fidelity", "diversity" and "privacy" (`Measurement`s
        beside "test", "train" or "prompt"), "memorisation" (`MemorisationRecord`s), "closest" and "distributions"
        (`text_closest`), "findings" (`text_findings.read_texts`), "environment". None of it holds a text.

    Raises:
        ValueError: a set has fewer than ten texts, a text without words, or an example that is no train text.
    """
    sets = {"synthetic": synthetic, "train": real["train"], "test": real["test"]}
    check_sets(sets)
    output_dir = create_run_folder(output_dir)
    settings = MeasurementSettings(encoder.name, replicates, seed)
    folder = Path(cache_dir or output_dir) / "features"
    views = view(sets, encoder, folder)
    losses = None if language_model is None else view_losses(sets, language_model, folder, seed)
    parts = {
        "fidelity": fidelity_parts(views, label_names, encoder, settings),
        "perplexity": perplexity_parts(losses, label_names, language_model, settings),
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
    records["fidelity"] += records.pop("perplexity")
    measured = [record for name in ("fidelity", "diversity", "privacy") for record in records[name]]
    data = describe_sets(sets, label_names, encoder)
    rows = {name: side.rows for name, side in views.embeddings.items()}
    return {
        "data": data,
        "encoder": describe_model(encoder),
        "language_model": None if language_model is None else describe_model(language_model),
        **records,
        "closest": closest_pairs(synthetic, sets["train"], rows["synthetic"], rows["train"]),
        "distributions": describe_distributions(sets, rows),
        "findings": read_texts(measured, records["memorisation"], data["counts"]),
        "environment": describe_environment(),
    }


Part = Iterator[tuple[str, Callable[[], Records]]]
"""Names of measurements, and the functions that take them."""


def fidelity_parts(views: Views, label_names: list[str], encoder: TextEncoder, settings: MeasurementSettings) -> Part:
    yield from compared(measure_embeddings, views.embeddings, label_names, settings)
    yield from compared(measure_mauve, views.embeddings, label_names, settings)
    tokens = {name: views.tokens(name, encoder) for name in SPLITS}
    yield "bertscore", partial(measure_bertscore, tokens, REFERENCES, label_names, settings)
    yield from compared(measure_tone, views.words, label_names, settings)
    words = views.sides("words", label_names)
    yield "label recovery", partial(measure_label_recovery, words, "train", settings)


def perplexity_parts(
    losses: dict[str, Features] | None,
    label_names: list[str],
    model: TextModel | None,
    settings: MeasurementSettings,
) -> Part:
    if losses is not None and model is not None:
        settings = replace(settings, extractor=model.name)
        for key, measure in compared(measure_perplexity, losses, label_names, settings):
            yield f"{key}, {hash_arrays(model.fingerprint)[:8]}", measure


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
    for reference, other in REFERENCES:
        rows = comparisons(sides["synthetic"], sides[reference], sides[other], label_names, settings.seed)
        for label, synthetic, real, held_out in rows:
            taken = partial(measure, label, reference, synthetic, real, held_out, settings)
            yield f"{measure.__name__}, {reference}, {label}", taken


def as_dicts(measure: Callable[[], Records]) -> list[dict[str, Any]]:
    """What `measure` finds, as it stands in evidence.json."""
    return [record.to_dict() for record in measure()]


def describe_model(model: TextModel) -> dict[str, Any]:
    return {"name": model.name, "dimension": model.dimension, "note": model.note}


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
