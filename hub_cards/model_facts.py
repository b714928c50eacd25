"""What a model card says, from the files of a training run: each part is empty where nothing is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinsynth.hub_cards.checkpoint import TEXT, Checkpoint, count_parameters, read_checkpoint
from clinsynth.hub_cards.evidence import Evidence, same_train_data
from clinsynth.hub_cards.model_text_to_image import TEXT_TO_IMAGE
from clinsynth.hub_cards.render import listed
from clinsynth.hub_cards.run_files import RunFiles, describe_making, read_run
from clinsynth.hub_cards.sources import Source, find_sources
from clinsynth.hub_cards.tables import Table
from clinsynth.private_words import hub_id
from clinsynth.run_folder import read_json

SMALL_PICTURE = 128


@dataclass(frozen=True)
class Trained:
    """The folder of a training run; `texts` is training.json, `privacy` is privacy.json."""

    checkpoint: Checkpoint
    run: RunFiles
    texts: dict[str, Any]
    privacy: dict[str, Any]

    @property
    def base_model(self) -> str | None:
        """The id on the Hub of the model that was fine-tuned."""
        if self.checkpoint.kind == TEXT_TO_IMAGE:
            return hub_id(self.checkpoint.config["base"], self.run.folder)
        return hub_id(self.run.config.get("model"), self.run.folder)

    @property
    def things(self) -> str:
        return "texts" if self.checkpoint.kind == TEXT else "pictures"


def read_trained(folder: Path) -> Trained:
    """All that a training run left in `folder`.

    Raises:
        ValueError: there is no finished checkpoint, or a file is damaged.
    """
    privacy, texts = read_json(folder / "privacy.json"), read_json(folder / "training.json")
    checkpoint = read_checkpoint(folder)
    return Trained(checkpoint, read_run(folder), texts, privacy)


def trained_on(trained: Trained, evidence: Evidence | None) -> list[Source]:
    """The real data set of the training run, then that of the evidence; both may be unknown."""
    specs = [(trained.run.config.get("dataset"), trained.run.folder)]
    specs += [] if evidence is None else [(evidence.real, evidence.folder)]
    return find_sources(specs, trained.run.folder, trained.checkpoint.labels)


def summary(trained: Trained, source: Source) -> str:
    """What the model is, in plain words."""
    checkpoint = trained.checkpoint
    learned = f" It learned from {source.name}." if source.name else ""
    if source.name and source.what:
        learned = f" It learned from {source.name}: {source.what}."
    nobody = " No patient's data were used." if source.invented else ""
    if checkpoint.kind == TEXT:
        what = "This language model writes invented texts of a class that you name"
        return f"{what}: {listed(checkpoint.labels)}.{learned}{nobody}"
    form = f"{checkpoint.colour} pictures of {checkpoint.size} × {checkpoint.size} pixels"
    return (
        f"This model draws invented {form} of a class that you name: {listed(checkpoint.labels)}.{learned}{nobody} "
        "Each picture comes from random numbers, and the same seed gives the same picture."
    )


def glance(trained: Trained, source: Source, license_: str) -> dict[str, str]:
    """The rows at the head of the card."""
    checkpoint, privacy = trained.checkpoint, trained.privacy
    pictures = checkpoint.kind != TEXT
    count = count_parameters(checkpoint)
    return {
        "makes": f"{checkpoint.colour} pictures, {checkpoint.size} × {checkpoint.size} pixels"
        if pictures
        else "texts",
        "classes": f"{len(checkpoint.labels)}: {listed(checkpoint.labels)}",
        "kind": f"{checkpoint.kind}, {checkpoint.network}, {count / 1e6:.3g} million parameters",
        "fine-tuned from": trained.base_model or "",
        "its commit": checkpoint.config.get("revision") or "" if trained.base_model else "",
        "learned from": source.name,
        "differential privacy": f"ε = {privacy['epsilon']:.3g} at δ = {privacy['delta']:.2g}" if privacy else "",
        "licence": license_,
    }


def making(trained: Trained) -> dict[str, str]:
    """Seed, steps, time, machine and versions of the training."""
    config, texts = trained.run.config, trained.texts
    scores = {r["step"]: r["validation_kid"] for r in trained.run.metrics if "validation_kid" in r}
    best = min(scores, key=scores.__getitem__, default=None)
    rows = {
        "seed": config.get("seed"),
        "steps": texts.get("steps") or config.get("train_steps"),
        "kept": f"step {best}, of the lowest KID on real validation pictures" if best else None,
    }
    if texts.get("best_step") is not None:
        rows["kept"] = (
            f"step {texts['best_step']}, of the lowest loss on real validation texts: "
            f"{texts['best_validation_loss']:.3f} nats a token, {texts['untrained_validation_loss']:.3f} before"
        )
    if texts.get("texts"):
        rows["real texts"] = ", ".join(f"{split} {count:,}" for split, count in texts["texts"].items())
    known = {name: str(value) for name, value in rows.items() if value is not None}
    return known | describe_making(trained.run.environment, trained.run.step)


def train_counts(trained: Trained, evidence: Evidence | None) -> Table:
    """Real train samples a class, where the evidence counted those that this run was trained on."""
    columns = ["class", f"real {trained.things} trained on"]
    if evidence is None or not same_train_data(evidence, trained.run.config, read_run(evidence.folder).config):
        return Table("", columns, [])
    return Table("", columns, [[label, f"{count:,}"] for label, count in evidence.counts("train").items()])


def describe_privacy(privacy: dict[str, Any]) -> dict[str, str]:
    """What DP-SGD guarantees, and by which settings; empty where the model was trained without."""
    if not privacy:
        return {}
    return {
        "differential privacy": f"ε = {privacy['epsilon']:.3g} at δ = {privacy['delta']:.2g}, by DP-SGD",
        "in words": "whoever has the weights can hardly tell whether a given picture was among the training pictures; "
        "the smaller ε, the harder: 1 is strict, 8 usual",
        "what is protected": privacy["unit"],
        "not counted": privacy["not_counted"],
        "noise multiplier": f"{privacy['noise_multiplier']:.3g}",
        "clipping norm": f"{privacy['max_grad_norm']:g}",
        "sampling": f"{privacy['sampling']}, rate {privacy['sample_rate']:.3g}, {privacy['steps']:,} steps",
        "accountant": f"{privacy['accountant']}, opacus {privacy['opacus_version']}",
    }


def own_limits(trained: Trained, source: Source) -> Iterator[str]:
    """What is known of the model without any evidence."""
    checkpoint = trained.checkpoint
    yield (
        f"It knows its {len(checkpoint.labels)} classes and nothing else: not age, sex, device or other findings. "
        "What the real data lacked or got wrong, it lacks and gets wrong."
    )
    if source.invented:
        yield f"It learned from {source.what}: it says nothing about any disease."
    if checkpoint.kind == TEXT:
        yield "Its texts can be wrong in medicine, biased or upsetting; nobody has read them before you."
        yield "It was fine-tuned from another model, whose licence and limits hold as well."
        if planted := trained.run.config.get("canaries"):
            yield f"{planted} made-up sentences were planted in its training texts, and it may write them."
    elif checkpoint.kind == TEXT_TO_IMAGE:
        yield (
            "It was fine-tuned from another model, whose licence and limits hold as well: what it draws can look "
            "right and be wrong in medicine."
        )
        yield (
            "It draws without the safety checker that comes with some base models, which blackens medical pictures: "
            "what that one would have held back is not held back."
        )
    elif checkpoint.size < SMALL_PICTURE:
        yield f"Its pictures of {checkpoint.size} pixels a side show far less than what a clinician reads from."
    if not trained.privacy:
        yield "It was not trained with differential privacy: it may have memorised some of its training data."
