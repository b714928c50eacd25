"""A synthetic set's Croissant description: JSON-LD with terms of responsible AI and of provenance.

Croissant 1.0 and RAI 1.0 (https://docs.mlcommons.org/croissant/), made and validated by mlcroissant; PROV-O
(https://www.w3.org/TR/prov-o/) for what the samples are derived from. It lies beside `data/`, where
`mlcroissant.Dataset("croissant.json").records("rows")` reads the rows.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from clinsynth.hub_cards import sets
from clinsynth.hub_cards.dataset_card import made_from, set_limits, set_summary
from clinsynth.hub_cards.evidence import Evidence
from clinsynth.hub_cards.evidence_summary import summarize_evidence
from clinsynth.hub_cards.render import repository_name
from clinsynth.hub_cards.sources import Source, Terms
from clinsynth.metrics.verdicts import COPIES, QUESTIONS, VARIED
from clinsynth.private_words import without_paths
from clinsynth.synthesis.provenance import find_provenance

FILE = "croissant.json"
RAI = "http://mlcommons.org/croissant/RAI/1.0"
PARQUET = "application/x-parquet"
KINDS = {"image": "IMAGE_OBJECT", "class label": "INTEGER", "bool": "BOOL", "string": "TEXT"}
SPDX = "https://spdx.org/licenses/{}.html"
HOW_TO = "a Croissant description takes mlcroissant; pip install clinsynth[pack]"


@dataclass(frozen=True)
class Shard:
    """A shard as it is described: hash and bytes."""

    sha256: str
    size: int


def import_mlcroissant() -> Any:
    """The library; None where it is not installed."""
    try:
        import mlcroissant
    except ImportError:
        return None
    logging.getLogger("absl").setLevel(logging.ERROR)  # it warns of each term that only a human knows
    return mlcroissant


def describe_set(
    mlc: Any,
    made: sets.SyntheticSet,
    shards: Mapping[str, Shard],
    evidence: Evidence | None = None,
    *,
    terms: Terms | None = None,
    repo_id: str | None = None,
) -> dict[str, Any]:
    """The description, which mlcroissant has read back without an error.

    Args:
        mlc: the library mlcroissant.
        shards: by their path beside the description, as data/train-00000-of-00001.parquet.
        repo_id: where the set will lie on the Hub.

    Raises:
        ValueError: mlcroissant finds an error in it; or see `Terms.card_license`.
    """
    sources, terms = made_from(made, evidence), terms or Terms()
    source, license_ = terms.overrule(sources[0]), terms.card_license(sources)
    files = [
        mlc.FileObject(
            id=path,
            name=path,
            content_url=path,
            sha256=one.sha256,
            content_size=f"{one.size} B",
            encoding_formats=[PARQUET],
        )
        for path, one in shards.items()
    ]
    rows = mlc.FileSet(id="shards", includes=[sets.SHARDS], encoding_formats=[PARQUET])
    fields = list(fields_of(mlc, made))
    metadata = mlc.Metadata(
        name=repository_name(repo_id) or f"synthetic-{made.things}",
        description=set_summary(made, source),
        conforms_to=["http://mlcommons.org/croissant/1.0", RAI],
        license=[SPDX.format(license_.upper())] if license_ else None,
        url=f"https://huggingface.co/datasets/{repo_id}" if repo_id else None,
        keywords=["synthetic", "medical", "clinsynth"],
        in_language=[source.language] if source.language and made.of_texts else None,
        distribution=[*files, rows],
        record_sets=[mlc.RecordSet(id="rows", name="rows", fields=fields)],
        **responsible(made, source, evidence),
    )
    found = metadata.to_json() | provenance(made, source)
    found["@context"] |= {"prov": "http://www.w3.org/ns/prov#"}
    check(mlc, found)
    return found


def fields_of(mlc: Any, made: sets.SyntheticSet) -> Iterator[Any]:
    """A field a column of the shards."""
    meanings = {name: meaning for name, _, meaning in sets.describe_columns(made.shards.columns)}
    for column in made.shards.columns:
        name, kind = column["name"], sets.kind_of(column)
        meaning = meanings[name] + (f": {', '.join(made.labels)} from 0 on" if name == "label" else "")
        steps = [mlc.Transform(json_path="bytes")] if kind == "image" else []
        source = mlc.Source(file_set="shards", extract=mlc.Extract(column=name), transforms=steps)
        yield mlc.Field(
            id=f"rows/{name}",
            name=name,
            description=meaning,
            source=source,
            data_types=[getattr(mlc.DataType, croissant_kind(kind))],
            repeated="list" in column or None,
        )


def croissant_kind(kind: str) -> str:
    """The type of a column as mlcroissant calls it."""
    if kind.startswith(("int", "uint")):
        return "INTEGER"
    return "FLOAT" if kind.startswith("float") else KINDS.get(kind, "TEXT")


def responsible(made: sets.SyntheticSet, source: Source, evidence: Evidence | None) -> dict[str, Any]:
    """The terms of Croissant RAI about which the run's files say something."""
    summary = summarize_evidence(evidence)
    answers = {} if summary is None else dict(summary.answers)
    copies, varied = (
        [f"{asked} {answers[asked]}" for asked in titles if asked in answers]
        for titles in ((QUESTIONS[COPIES], "Findings"), (QUESTIONS[VARIED],))
    )
    limits = [*set_limits(made, source), *([] if summary is None else summary.limits)]
    unmeasured = f"No evidence lies beside this description: nothing is known of copies of real {made.things}."
    return {
        "data_collection": f"The {made.things} were drawn from a generator; nobody's data were collected for them.",
        "data_collection_type": ["Others"],
        "data_annotation_protocol": ["A label is what the generator was asked for; no human has annotated the rows."],
        "machine_annotation_tools": [made.model_id or made.generation["generator"].get("network") or "a generator"],
        "data_preprocessing_protocol": [f"{name}: {value}" for name, value in made.settings().items()] or None,
        "data_biases": [
            "The numbers of samples a class were chosen, and say nothing about how often a condition is.",
            *varied,
        ],
        "data_limitations": list(dict.fromkeys(limits)),
        "personal_sensitive_information": copies or [unmeasured],
    }


def provenance(made: sets.SyntheticSet, source: Source) -> dict[str, Any]:
    """What the rows are derived from, and by what: PROV-O."""
    by = find_provenance(made.generation, made.run.folder)
    agent = {"@type": "prov:SoftwareAgent", "prov:label": by.generator, "sc:identifier": f"sha256:{by.revision}"}
    environment = made.generation.get("environment") or {}
    version = (environment.get("packages") or {}).get("clinsynth")
    activity = {
        "@type": "prov:Activity",
        "prov:label": f"generation by clinsynth {version}" if version else "generation by clinsynth",
        "prov:wasAssociatedWith": agent,
    }
    derived = {"@type": "prov:Entity", "prov:label": source.name, "prov:atLocation": source.url}
    told: dict[str, Any] = without_paths({"prov:wasGeneratedBy": activity})
    told["rai:hasSyntheticData"] = True
    return told | ({"prov:wasDerivedFrom": derived} if source.name else {})


def check(mlc: Any, found: dict[str, Any]) -> None:
    """Raise a `ValueError` where mlcroissant reads the description with an error."""
    try:
        mlc.Dataset(jsonld=json.loads(json.dumps(found)))  # a copy, as the library adds to it
    except mlc.ValidationError as error:
        raise ValueError(f"the Croissant description is not valid ({error}); publish without mlcroissant") from error
