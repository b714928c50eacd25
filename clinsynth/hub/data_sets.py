"""Synthetic data sets on their way to the Hub: evidence on exactly these, the gate, files that leave, and cards.

Shards are published with known columns alone, and each row says where it is from. A shard that generation wrote so is
published as it is, once it has been looked at: when the set was finished, which holds for as long as the shards keep
their hash, or else now. Any other shard is written anew.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from clinsynth.hub.credentials import is_signed, unsigned
from clinsynth.hub.gate import Reading, Thresholds, read_audit, read_gate, refuse
from clinsynth.hub.seal import read_seal, recount
from clinsynth.hub.upload import Content, size_of
from clinsynth.private_words import BIDI, describe_command, refuse_private, without_paths
from clinsynth.synthesis import shard_files
from clinsynth.synthesis.provenance import COLUMNS as PROVENANCE_COLUMNS
from clinsynth.synthesis.provenance import Provenance, find_provenance, insert
from clinsynth.synthesis.sets import read_finished

if TYPE_CHECKING:
    import pyarrow as pa

    from clinsynth.hub_cards.croissant import Shard
    from clinsynth.hub_cards.sets import Shards
    from clinsynth.hub_cards.sources import Terms

CONFIG_NAME = re.compile(r"[A-Za-z0-9][\w-]*")
KEPT_EVIDENCE = (
    "encoder extractor language_model measurements collapse classifier fidelity diversity memorisation findings "
    "distributions privacy copies power attacks seed"
).split()
KEPT_DATA = ("label_names", "counts", "resolution", "channels", "words_a_text", "shards_sha256")
NAMES_REAL_ROWS = ("pairs", "duplicates", "exact")
COLUMNS = ("image", "id", "text", "label", "seed", "attempts")
"""Columns of a synthetic set that may be published, besides the fields of a text task's schema."""


@dataclass
class SetToPush:
    """One synthetic set on its way: `config_name` is empty where it is the only one of its repository.

    `measured` is what the folder `evidence` says, without paths.
    """

    folder: Path
    evidence: Path
    measured: dict[str, Any]
    config_name: str
    generation: dict[str, Any]
    shards: PublishedShards
    readings: list[Reading]

    @property
    def prefix(self) -> str:
        """Where it lies in the repository."""
        return f"{self.config_name}/" if self.config_name else ""

    @property
    def is_refused(self) -> bool:
        """Whether a reading is beyond its limit."""
        return not all(reading.passed for reading in self.readings)


def find_sets(folders: str, evidence: str, limits: Thresholds) -> list[SetToPush]:
    """The sets with what their evidence says of them.

    Args:
        folders: FOLDER or NAME=FOLDER, several as A,B,…
        evidence: the folder of the evidence on each, in their order.

    Raises:
        ValueError: sets and evidence do not match, a set is not finished, or a name is no name of a configuration.
    """
    words, measured = folders.split(","), evidence.split(",")
    if len(words) != len(measured):
        raise ValueError(f"--evidence must name one folder for each of the {len(words)} sets, got {len(measured)}")
    pairs = [word.split("=", 1) if "=" in word else [Path(word).name, word] for word in words]
    names = [name for name, _ in pairs] if len(pairs) > 1 else [""]
    for name in names:
        if (name and not CONFIG_NAME.fullmatch(name)) or names.count(name) > 1:
            raise ValueError(f"{name!r} cannot be the name of a configuration of its own; write NAME={name}")
    return [
        find_set(Path(folder), Path(about), name, limits)
        for name, (_, folder), about in zip(names, pairs, measured, strict=True)
    ]


def find_set(folder: Path, evidence: Path, config_name: str, limits: Thresholds) -> SetToPush:
    """One set, its evidence checked to be about exactly its shards."""
    from clinsynth.hub_cards.evidence import check_about_set, read_evidence

    generation = read_finished(folder)
    shard_files.find_shards(folder)
    read = read_evidence(evidence)
    assert read is not None
    check_about_set(read, generation, folder)
    measured, hashed = read.content["data"].get("shards_sha256"), shard_files.hash_each(folder)
    if measured != shard_files.hash_all(hashed.values()):
        why = "is about other shards than those in" if measured else "does not say which shards it is about, unlike"
        raise ValueError(f"--evidence {evidence} {why} {folder}; run `clinsynth evaluate` on this set and start again")
    shards = PublishedShards.of(generation, folder, hashed)
    readings = read_gate(with_recount(read.folder, read.content, folder), limits) + read_seal(read.folder)
    if "fidelity" in read.content:
        readings.append(read_audit(folder, shard_files.hash_all(hashed.values()), limits))
    return SetToPush(folder, evidence, read.content, config_name, generation, shards, readings)


def with_recount(evidence: Path, content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The evidence with exact copies as they are counted now, where digests of the real rows are at hand."""
    exact = recount(evidence, content, folder)
    if exact is None:
        return content
    if isinstance(content["privacy"], dict):
        return content | {"privacy": content["privacy"] | {"exact": exact}}
    return content | {"exact": exact}


def pass_gate(one: SetToPush, accepted_risk: str) -> None:
    """Print what the gate reads, and raise a ValueError where it refuses and no risk is accepted."""
    for reading in one.readings:
        print(f"gate: {'passed' if reading.passed else 'NOT PASSED'}: {reading}")
    refusal = refuse(one.readings, str(one.folder))
    if refusal and not accepted_risk:
        raise ValueError(refusal)
    if refusal:
        print(f"gate: the risk is accepted, and the card says so: {accepted_risk}")


def files_of_sets(
    sets: list[SetToPush], repo_id: str, terms: Terms, accepted_risk: str
) -> Iterator[tuple[str, Content]]:
    """Path in the repository and content of each file, a shard in memory at a time.

    Shards come first, so that images are drawn while they are sent, and cards last, as they tell sizes.
    """
    from clinsynth.hub_cards.dataset_card import several_cards
    from clinsynth.hub_cards.sets import PICTURE

    cards = {}
    for one in sets:
        described = {}
        for path, content in one.shards.files(sum((one.generation.get("produced") or {}).values())):
            described[path] = describe_shard(content)
            yield one.prefix + path, content
        facts = dict(facts_of(one))
        yield from ((one.prefix + path, content) for path, content in facts.items())
        if one.shards.left_out:
            print(f"{one.folder}: columns that are not published: {', '.join(one.shards.left_out)}")
        if one.shards.turned:
            print(f"{one.folder}: {one.shards.turned} bidirectional control characters were taken out of its texts")
        card = card_of(one, repo_id, terms, accepted_risk if one.is_refused else "", PICTURE in facts)
        yield f"{one.prefix}README.md", card.encode()
        yield from croissant_of(one, described, repo_id, terms)
        cards[one.config_name] = card
    if len(sets) > 1:
        rows = {one.config_name: one.shards.num_rows for one in sets}
        yield "README.md", several_cards(cards, rows, repo_id, sets[0].shards.things).encode()


def facts_of(one: SetToPush) -> Iterator[tuple[str, bytes]]:
    """How the set was made and measured, and the images of its card."""
    from clinsynth.hub_cards.sets import PICTURE, sample_grid

    facts = {"generation": published_generation(one.generation, one.folder), "evidence": published_evidence(one)}
    for name, values in facts.items():
        yield f"{name}.json", (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()
    grid = sample_grid(one.folder, one.evidence)
    if grid is not None:
        yield PICTURE, grid


def describe_shard(content: bytes | shard_files.HashedFile) -> Shard:
    """Hash and bytes of a shard that is published."""
    from clinsynth.hub_cards.croissant import Shard

    if isinstance(content, shard_files.HashedFile):
        return Shard(content.sha256.hex(), content.size)
    return Shard(hashlib.sha256(content).hexdigest(), len(content))


def croissant_of(one: SetToPush, shards: dict[str, Shard], repo_id: str, terms: Terms) -> Iterator[tuple[str, bytes]]:
    """The Croissant description of one set, whose shards have been gone through; none without mlcroissant."""
    from clinsynth.hub_cards.croissant import FILE, HOW_TO, describe_set, import_mlcroissant
    from clinsynth.hub_cards.evidence import read_evidence
    from clinsynth.hub_cards.sets import read_set

    mlc = import_mlcroissant()
    if mlc is None:
        print(f"{one.folder}: {FILE} is left out: {HOW_TO}")
        return
    made = replace(read_set(one.folder), shards=one.shards.totals())
    found = describe_set(mlc, made, shards, read_evidence(one.evidence), terms=terms, repo_id=repo_id)
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    yield f"{one.prefix}{FILE}", refuse_private(text, f"{FILE} of {one.folder}").encode()


def published_generation(generation: dict[str, Any], folder: Path) -> dict[str, Any]:
    """generation.json as it is published: no path, address, or digest of real texts."""
    hidden = {"endpoint", "examples_sha256", "verify_labels_sha256"}
    generator = {name: value for name, value in generation["generator"].items() if name not in hidden}
    generator["model"] = generator.get("model") and find_provenance(generation, folder).generator
    environment = generation.get("environment") or {}
    kept = {name: environment[name] for name in ("python", "packages", "git_commit", "machine") if name in environment}
    kept["command"] = describe_command(environment.get("command"), folder)
    counts = {name: generation.get(name) for name in ("requested", "produced", "rejected", "given_up")}
    public: dict[str, Any] = without_paths({"generator": generator, **counts, "environment": kept})
    return public


def published_evidence(one: SetToPush) -> dict[str, Any]:
    """evidence.json as it is published: its numbers, without paths and without the numbers or ids of real rows."""
    kept = {name: one.measured[name] for name in KEPT_EVIDENCE if name in one.measured}
    if isinstance(kept["privacy"], dict):
        kept["privacy"] = {name: part for name, part in kept["privacy"].items() if name not in NAMES_REAL_ROWS}
    data = one.measured["data"]
    return {"data": {name: data[name] for name in KEPT_DATA if name in data}, **kept}


def card_of(one: SetToPush, repo_id: str, terms: Terms, accepted_risk: str, has_grid: bool) -> str:
    """The card of one set, whose shards have been gone through."""
    from clinsynth.hub_cards.dataset_card import Publication, dataset_card

    failed = Markup("**not passed**")
    gate = [
        [reading.name, reading.value, reading.limit, "passed" if reading.passed else failed]
        for reading in one.readings
    ]
    shards = one.shards
    published = Publication(shards.totals(), shards.left_out, gate, has_grid, one.config_name, shards.turned)
    return dataset_card(
        one.folder, one.evidence, repo_id=repo_id, terms=terms, accepted_risk=accepted_risk, published=published
    )


@dataclass
class PublishedShards:
    """The shards of one set, one in memory at a time; the totals are right once `files` has run out.

    Attributes:
        folder: of the set.
        provenance: what each row says.
        hashed: the shards that the evidence is about; one that has changed since is not sent.
        reasons: of rejections, which the set tells anyway.
        known: what generation found of these or other shards when it looked at them.
        left_out: columns that are not published.
        columns: of the published rows.
        num_rows, num_bytes, download_size: of all shards; bytes once decompressed, and as files.
        turned: bidirectional control characters that were taken out of texts.
    """

    folder: Path
    provenance: Provenance
    hashed: dict[Path, shard_files.HashedFile]
    reasons: frozenset[str] = frozenset()
    known: dict[str, Any] | None = None
    left_out: list[str] = field(default_factory=list)
    columns: shard_files.Columns = field(default_factory=list)
    num_rows: int = 0
    num_bytes: int = 0
    download_size: int = 0
    turned: int = 0

    @classmethod
    def of(
        cls, generation: dict[str, Any], folder: Path, hashed: dict[Path, shard_files.HashedFile]
    ) -> PublishedShards:
        """The shards of the set in `folder`, as its generation.json tells of them."""
        reasons = frozenset(generation.get("rejected") or {}) | {shard_files.GIVEN_UP}
        return cls(folder, find_provenance(generation, folder), hashed, reasons, generation.get("looked_at"))

    @property
    def things(self) -> str:
        """What the rows are, in the words of a card."""
        return "images" if any(column["name"] == "image" for column in self.columns) else "texts"

    def totals(self) -> Shards:
        """What a card tells of all of them."""
        from clinsynth.hub_cards.sets import Shards

        return Shards(self.columns, self.num_rows, self.num_bytes, self.download_size)

    def files(self, produced: int) -> Iterator[tuple[str, bytes | shard_files.HashedFile]]:
        """Path within the set, and content, of each shard.

        Raises:
            ValueError: the rows are not as many as `produced`, a shard cannot be read, or an image is damaged.
        """
        known = self.known or {}
        totals = known.get("num_rows", 0), known.get("num_bytes", 0)
        fit = known == shard_files.looked_at(self.hashed, self.provenance, *totals)
        for path in shard_files.find_shards(self.folder):
            content = self.hashed[path] if fit else self.publish(path)
            self.download_size += size_of(content)
            yield f"data/{path.name}", content
        if fit:
            self.columns = shard_files.read_columns(shard_files.open_shard(path).schema_arrow)
            self.num_rows, self.num_bytes = totals
        if self.num_rows != produced:
            raise ValueError(
                f"{self.folder} holds {self.num_rows} rows, but its generation.json says {produced}; start its "
                "`clinsynth generate` command again"
            )

    def publish(self, path: Path) -> bytes | shard_files.HashedFile:
        """The content of one shard: the file itself where it is fit to be published."""
        table = shard_files.read_shard(path)
        content: bytes | shard_files.HashedFile
        if shard_files.is_fit(path, table, self.provenance, self.reasons, unsigned):
            self.columns = shard_files.read_columns(table.schema)
            content = self.hashed[path]
        else:
            table = self.rewrite(table)
            content = write_table(table)
        self.num_rows += table.num_rows
        self.num_bytes += table.nbytes
        return content

    def rewrite(self, table: pa.Table) -> pa.Table:
        """The rows with known columns and their provenance; nothing of the file's own metadata is kept."""
        import pyarrow as pa
        from datasets import Features, Value

        own = Features.from_arrow_schema(table.schema)
        known = [name for name in (*COLUMNS, *schema_fields(self.folder)) if name in own]
        self.left_out = [name for name in own if name not in (*known, *PROVENANCE_COLUMNS)]
        added = {"synthetic": Value("bool"), "generator": Value("string"), "revision": Value("string")}
        features = Features({**{name: own[name] for name in dict.fromkeys(known)}, **added})
        self.columns = features._to_yaml_list()
        columns = {name: table[name] for name in features if name in own}
        if "image" in columns:
            columns["image"] = self.mark_images(table)
        columns |= {name: self.without_bidi(column) for name, column in columns.items() if name != "image"}
        for name, value in self.provenance.columns().items():
            columns[name] = pa.repeat(pa.scalar(value), table.num_rows)
        return pa.table({name: columns[name] for name in features}, schema=features.arrow_schema)

    def without_bidi(self, column: Any) -> Any:
        """A column of texts without signs that turn the direction of reading, which are counted."""
        import pyarrow as pa

        found = [upright(value) for value in column.to_pylist()] if holds_texts(column.type) else []
        turned = sum(count for _, count in found)
        self.turned += turned
        return pa.array([value for value, _ in found], column.type) if turned else column

    def mark_images(self, table: pa.Table) -> pa.Array:
        """The column of images, each marked with its row's provenance; no file name is kept."""
        import pyarrow as pa

        images = table["image"].combine_chunks().field("bytes").to_pylist()
        seeds = table["seed"].to_pylist() if "seed" in table.column_names else [None] * len(images)
        if any(map(is_signed, images)):
            raise ValueError(
                f"{self.folder} holds signed images in a shard that is not as `clinsynth sign images` wrote it, and "
                "writing it anew would take their signatures away; sign the set again"
            )
        marked = list(map(insert, images, self.provenance.chunks(seeds)))
        return pa.StructArray.from_arrays(
            [pa.array(marked, pa.binary()), pa.nulls(len(marked), pa.string())], ["bytes", "path"]
        )


def holds_texts(kind: pa.DataType) -> bool:
    """Whether a column's cells are texts, or lists or objects that may hold some."""
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_nested(kind))


def upright(value: Any) -> tuple[Any, int]:
    """A cell without signs that turn the direction of reading, in whatever depth, and how many there were."""
    if isinstance(value, str):
        return BIDI.subn("", value)
    if isinstance(value, list):
        parts = [upright(part) for part in value]
        return [part for part, _ in parts], sum(count for _, count in parts)
    if isinstance(value, dict):
        named = {name: upright(part) for name, part in value.items()}
        return {name: part for name, (part, _) in named.items()}, sum(count for _, count in named.values())
    return value, 0


def schema_fields(folder: Path) -> list[str]:
    """The fields of a text set's schema, each of which is a column; none of a set of images."""
    path = folder / "task.json"
    return list(json.loads(path.read_text(encoding="utf-8"))["schema"]["properties"]) if path.exists() else []


def write_table(table: pa.Table) -> bytes:
    """A Parquet file that can be streamed and shown page by page; the same rows give the same bytes."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, **shard_files.parquet_options(table.column_names))
    return buffer.getvalue()
