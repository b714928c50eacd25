"""The card of a trained generator, from its run folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from clinsynth.hub_cards.checkpoint import (
    DIFFUSION,
    GAN,
    TEXT,
    TEXT_TO_IMAGE,
    Checkpoint,
    check_weights,
    count_parameters,
    read_checkpoint,
)
from clinsynth.hub_cards.evidence import Evidence, eval_results, read_evidence, same_train_data
from clinsynth.hub_cards.evidence_summary import summarize_evidence
from clinsynth.hub_cards.render import LOCAL, Table, listed, render_card, repository_name
from clinsynth.hub_cards.sets import PICTURE, sample_grid
from clinsynth.hub_cards.sources import RunFiles, Source, Terms, describe_making, find_sources, read_run
from clinsynth.private_words import hub_id
from clinsynth.run_folder import read_json

SMALL_IMAGE = 128
BASE = "path/of/the/base/model"
"""What a snippet loads where the base model is not on the Hub."""
PROMPT_COLUMNS = ["class", "prompt, which is all that the model was told of a training image"]
TEXTUAL_INVERSION = "Textual inversion: Gal et al., An Image is Worth One Word, 2022, https://arxiv.org/abs/2208.01618"
DP_SGD = "DP-SGD: Abadi et al., Deep Learning with Differential Privacy, 2016, https://arxiv.org/abs/1607.00133"


@dataclass(frozen=True)
class Trained:
    """The folder of a training run; `texts` is training.json, `privacy` is privacy.json."""

    checkpoint: Checkpoint
    run: RunFiles
    texts: dict[str, Any]
    privacy: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Trained:
        """All that a training run left in `folder`."""
        texts, privacy = read_json(folder / "training.json"), read_json(folder / "privacy.json")
        return cls(read_checkpoint(folder), read_run(folder), texts, privacy)

    @property
    def base_model(self) -> str | None:
        """The id on the Hub of the model that was fine-tuned."""
        lora = self.checkpoint.kind is TEXT_TO_IMAGE
        return hub_id(self.checkpoint.config["base"] if lora else self.run.config.get("model"), self.run.folder)

    @property
    def things(self) -> str:
        return "texts" if self.checkpoint.kind is TEXT else "images"


def model_card(
    run_folder: str | Path,
    *,
    repo_id: str | None = None,
    evidence: str | Path | None = None,
    terms: Terms | None = None,
) -> str:
    """README.md of a checkpoint: YAML metadata and Markdown, from the files of its run.

    Args:
        run_folder: the --output_dir of `clinsynth train ddpm`, `gan`, `text-to-image-lora` or `text-lora`.
        repo_id: where it will lie; the snippet loads it from there.
        evidence: evidence.json, or its folder, on samples of this checkpoint.
        terms: what is known better than by these files.

    Raises:
        ValueError: no finished checkpoint, evidence about another one, a licence that the real data's forbids, or
            something private in the card.
    """
    folder, terms = Path(run_folder), terms or Terms()
    trained, read = Trained.read(folder), read_evidence(evidence)
    if read is not None:
        check_weights(trained.checkpoint, read.generation.get("generator", {}), read.folder)
    specs = [(trained.run.config.get("dataset"), folder), *([] if read is None else [(read.real, read.folder)])]
    sources = find_sources(specs, folder, trained.checkpoint.labels)  # both may be unknown
    source, card_license = terms.overrule(sources[0]), terms.card_license(sources)
    name = repository_name(repo_id) or f"Generator of synthetic {trained.things}"
    commands = [trained.run.command, *(read.commands if read else [])]
    return render_card(
        "model.md",
        model_metadata(trained, source, card_license, name, read),
        title=name,
        things=trained.things,
        summary=model_summary(trained, source),
        image=PICTURE if sample_grid(folder, evidence) else None,
        labels=trained.checkpoint.labels,
        overview=model_overview(trained, source, card_license),
        place=repo_id or LOCAL,
        steps=trained.checkpoint.kind is DIFFUSION,
        lora=trained.checkpoint.config if trained.checkpoint.kind is TEXT_TO_IMAGE else None,
        base=trained.base_model or BASE,
        prompts=Table("", PROMPT_COLUMNS, trained.checkpoint.prompts),
        measured=summarize_evidence(read),
        spent=privacy_facts(trained.privacy),
        counts=train_counts(trained, read),
        made=how_trained(trained),
        settings=trained.run.settings(),
        commands=[command for command in commands if command],
        own_limits=list(model_limits(trained, source)),
        license=card_license,
        source=source,
        terms=terms,
        works=works(trained),
    )


def model_metadata(
    trained: Trained, source: Source, license_: str, name: str, evidence: Evidence | None
) -> ModelCardData:
    """The card's YAML; ids are those on the Hub or left out."""
    kind = trained.checkpoint.kind
    lora = kind is TEXT_TO_IMAGE
    tags = ["synthetic", "medical", "clinsynth", *(["lora"] if lora else [])]
    results = eval_results(evidence, source, kind.task)
    return ModelCardData(
        license=license_ or None,
        language=source.language or None,
        library_name=kind.library,
        pipeline_tag=kind.task,
        base_model=trained.base_model,
        base_model_relation=("adapter" if lora else "finetune") if trained.base_model else None,
        datasets=[source.hub_id] if source.hub_id else None,
        tags=tags + (["differential-privacy"] if trained.privacy else []),
        model_name=name if results else None,
        eval_results=results,
    )


def model_summary(trained: Trained, source: Source) -> str:
    """What the model is, in plain words."""
    checkpoint = trained.checkpoint
    what = f": {source.what}" if source.what else ""
    learned = f" It learned from {source.name}{what}." if source.name else ""
    learned += " No patient's data were used." if source.invented else ""
    if checkpoint.kind is TEXT:
        what = "This language model writes invented texts of a class that you name"
        return f"{what}: {listed(checkpoint.labels)}.{learned}"
    form = f"{checkpoint.colour} images of {checkpoint.size} × {checkpoint.size} pixels"
    return (
        f"This model draws invented {form} of a class that you name: {listed(checkpoint.labels)}.{learned} "
        "Each image comes from random numbers, and the same seed gives the same image."
    )


def model_overview(trained: Trained, source: Source, license_: str) -> dict[str, str]:
    """The rows at the head of the card."""
    checkpoint = trained.checkpoint
    images = checkpoint.kind is not TEXT
    count = count_parameters(checkpoint)
    return {
        "makes": f"{checkpoint.colour} images, {checkpoint.size} × {checkpoint.size} pixels" if images else "texts",
        "classes": f"{len(checkpoint.labels)}: {listed(checkpoint.labels)}",
        "kind": f"{checkpoint.kind.name}, {checkpoint.network}, {count / 1e6:.3g} million parameters",
        "fine-tuned from": trained.base_model or "",
        "its commit": checkpoint.config.get("revision") or "" if trained.base_model else "",
        "learned from": source.name,
        "differential privacy": guarantee(trained.privacy),
        "licence": license_,
    }


def how_trained(trained: Trained) -> dict[str, str]:
    """Seed, steps, time, machine and versions of the training."""
    config, texts = trained.run.config, trained.texts
    scores = {r["step"]: r["validation_kid"] for r in trained.run.metrics if "validation_kid" in r}
    best = min(scores, key=scores.__getitem__, default=None)
    rows = {
        "seed": config.get("seed"),
        "steps": texts.get("steps") or config.get("train_steps"),
        "kept": f"step {best}, of the lowest KID on real validation images" if best else None,
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


def guarantee(privacy: dict[str, Any]) -> str:
    """What the training spent of its privacy budget; empty where there was none."""
    return f"ε = {privacy['epsilon']:.3g} at δ = {privacy['delta']:.2g}" if privacy else ""


def privacy_facts(privacy: dict[str, Any]) -> dict[str, str]:
    """What DP-SGD guarantees, and by which settings; empty where the model was trained without."""
    if not privacy:
        return {}
    return {
        "differential privacy": f"{guarantee(privacy)}, by DP-SGD",
        "in words": "whoever has the weights can hardly tell whether a given image was among the training images; "
        "the smaller ε, the harder: 1 is strict, 8 usual",
        "what is protected": privacy["unit"],
        "not counted": privacy["not_counted"],
        "noise multiplier": f"{privacy['noise_multiplier']:.3g}",
        "clipping norm": f"{privacy['max_grad_norm']:g}",
        "sampling": f"{privacy['sampling']}, rate {privacy['sample_rate']:.3g}, {privacy['steps']:,} steps",
        "accountant": f"{privacy['accountant']}, opacus {privacy['opacus_version']}",
    }


def model_limits(trained: Trained, source: Source) -> Iterator[str]:
    """What is known of the model without any evidence."""
    checkpoint = trained.checkpoint
    yield (
        f"It knows its {len(checkpoint.labels)} classes and nothing else: not age, sex, device or other findings. "
        "What the real data lacked or got wrong, it lacks and gets wrong."
    )
    if source.invented:
        yield f"It learned from {source.what}: it says nothing about any disease."
    yield from checkpoint.kind.limits
    if checkpoint.kind is TEXT and (planted := trained.run.config.get("canaries")):
        yield f"{planted} made-up sentences were planted in its training texts, and it may write them."
    if checkpoint.kind in (DIFFUSION, GAN) and checkpoint.size < SMALL_IMAGE:
        yield f"Its images of {checkpoint.size} pixels a side show far less than what a clinician reads from."
    if not trained.privacy:
        yield "It was not trained with differential privacy: it may have memorised some of its training data."


def works(trained: Trained) -> list[str]:
    """What the method rests on."""
    checkpoint = trained.checkpoint
    learned = checkpoint.kind is TEXT_TO_IMAGE and checkpoint.config["tokens"]
    added = [*([TEXTUAL_INVERSION] if learned else []), *([DP_SGD] if trained.privacy else [])]
    return [*checkpoint.kind.works, *added]
