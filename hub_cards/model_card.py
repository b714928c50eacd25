"""The card of a trained generator, from its run folder."""

from __future__ import annotations

import json
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
    lora_snippet,
    prompt_table,
    read_checkpoint,
)
from clinsynth.hub_cards.evidence import Evidence, eval_results, read_evidence, same_train_data
from clinsynth.hub_cards.evidence_summary import summarize_evidence
from clinsynth.hub_cards.render import LOCAL, Table, listed, render_card, repository_name
from clinsynth.hub_cards.sets import PICTURE, sample_grid
from clinsynth.hub_cards.sources import RunFiles, Source, Terms, describe_making, find_sources, read_run
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


SNIPPETS = {
    DIFFUSION: """\
import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler

pipe = DiffusionPipeline.from_pretrained({place}, trust_remote_code=True)
pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
images = pipe(
    class_labels=[{label}],
    num_images_per_class=2,
    num_inference_steps=25,
    generator=[torch.Generator().manual_seed(seed) for seed in range(2)],  # one an image
).images
images[0].save("synthetic.png")""",
    GAN: """\
import torch
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained({place}, trust_remote_code=True)
images = pipe(
    class_labels=[{label}],
    num_images_per_class=2,
    generator=[torch.Generator().manual_seed(seed) for seed in range(2)],  # one an image
).images
images[0].save("synthetic.png")""",
    TEXT: """\
from transformers import pipeline

pipe = pipeline("structured-medical-text", model={place}, trust_remote_code=True)
texts = pipe({{"label": {label}}}, num_samples=2, seed=0)  # each valid under the schema, or left out
for text in texts:
    print(text["data"])""",
}
"""To be filled with `place` and `label` as JSON texts."""


TASKS = {
    DIFFUSION: "unconditional-image-generation",
    GAN: "unconditional-image-generation",
    TEXT: "text-generation",
    TEXT_TO_IMAGE: "text-to-image",
}
LORA = "LoRA: Hu et al., Low-Rank Adaptation of Large Language Models, 2021, https://arxiv.org/abs/2106.09685"
WORKS = {
    DIFFUSION: [
        "Diffusion: Ho et al., Denoising Diffusion Probabilistic Models, 2020, https://arxiv.org/abs/2006.11239",
        "Guidance: Ho & Salimans, Classifier-Free Diffusion Guidance, 2022, https://arxiv.org/abs/2207.12598",
    ],
    GAN: [
        "DCGAN: Radford et al., Unsupervised Representation Learning with Deep Convolutional Generative Adversarial "
        "Networks, 2015, https://arxiv.org/abs/1511.06434"
    ],
    TEXT: [LORA],
    TEXT_TO_IMAGE: [
        "Latent diffusion: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2022, "
        "https://arxiv.org/abs/2112.10752",
        LORA,
    ],
}
WORDS = "Learned words: Gal et al., An Image is Worth One Word, 2022, https://arxiv.org/abs/2208.01618"
DP_SGD = "DP-SGD: Abadi et al., Deep Learning with Differential Privacy, 2016, https://arxiv.org/abs/1607.00133"


def model_card(
    run_folder: str | Path,
    *,
    repo_id: str | None = None,
    evidence: str | Path | None = None,
    data_name: str = "",
    data_url: str = "",
    data_license: str = "",
    license: str = "",
    license_override: str = "",
) -> str:
    """README.md of a checkpoint: YAML metadata and Markdown, from the files of its run.

    Args:
        run_folder: the --output_dir of `clinsynth train ddpm`, `gan`, `text-to-image-lora` or `text-lora`.
        repo_id: where it will lie; the snippet loads it from there.
        evidence: evidence.json, or its folder, on samples of this checkpoint.
        data_name, data_url, data_license: of the real data, where they are not known or known wrongly.
        license, license_override: see `data_sources.Terms`.

    Raises:
        ValueError: no finished checkpoint, evidence about another one, a licence that the real data's forbids, or
            something private in the card.
    """
    folder = Path(run_folder)
    trained, read = read_trained(folder), read_evidence(evidence)
    if read is not None:
        check_weights(trained.checkpoint, read.generation.get("generator", {}), read.folder)
    terms = Terms(data_name, data_url, data_license, license, license_override)
    sources = trained_on(trained, read)
    source, card_license = terms.describe(sources[0]), terms.card_license(sources)
    name = repository_name(repo_id) or f"Generator of synthetic {trained.things}"
    commands = [trained.run.command, *(read.commands if read else [])]
    return render_card(
        "model.md",
        metadata(trained, source, card_license, name, read),
        title=name,
        things=trained.things,
        summary=summary(trained, source),
        picture=PICTURE if sample_grid(folder, evidence) else None,
        labels=trained.checkpoint.labels,
        glance=glance(trained, source, card_license),
        snippet=snippet(trained.checkpoint, folder, repo_id or LOCAL),
        prompts=prompt_table(trained.checkpoint),
        measured=summarize_evidence(read),
        spent=describe_privacy(trained.privacy),
        counts=train_counts(trained, read),
        made=making(trained),
        settings=trained.run.settings(),
        commands=[command for command in commands if command],
        own_limits=list(own_limits(trained, source)),
        license=card_license,
        source=source,
        terms=terms,
        works=works(trained),
    )


def snippet(checkpoint: Checkpoint, folder: Path, place: str) -> str:
    """The code that loads the model from `place`."""
    if checkpoint.kind == TEXT_TO_IMAGE:
        return lora_snippet(checkpoint.config, folder, place)
    return SNIPPETS[checkpoint.kind].format(place=json.dumps(place), label=json.dumps(checkpoint.labels[0]))


def works(trained: Trained) -> list[str]:
    """What the method rests on."""
    words = trained.checkpoint.kind == TEXT_TO_IMAGE and trained.checkpoint.config["tokens"]
    return [*WORKS[trained.checkpoint.kind], *([WORDS] if words else []), *([DP_SGD] if trained.privacy else [])]


def metadata(trained: Trained, source: Source, license_: str, name: str, evidence: Evidence | None) -> ModelCardData:
    """The card's YAML; ids are those on the Hub or left out."""
    kind = trained.checkpoint.kind
    text, lora = kind == TEXT, kind == TEXT_TO_IMAGE
    tags = ["synthetic", "medical", "clinsynth", *(["lora"] if lora else [])]
    tags += ["differential-privacy"] if trained.privacy else []
    relation = "adapter" if lora else "finetune"
    results = eval_results(evidence, source, TASKS[kind])
    return ModelCardData(
        license=license_ or None,
        language=source.language or None,
        library_name="transformers" if text else "diffusers",
        pipeline_tag=TASKS[kind],
        base_model=trained.base_model,
        base_model_relation=relation if trained.base_model else None,
        datasets=[source.hub_id] if source.hub_id else None,
        tags=tags,
        model_name=name if results else None,
        eval_results=results,
    )
