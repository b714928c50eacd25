"""The card of a trained generator, from its run folder."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import ModelCardData

from clinsynth.hub_cards.checkpoint import DIFFUSION, GAN, TEXT, Checkpoint, check_weights
from clinsynth.hub_cards.evidence import Evidence, read_evidence
from clinsynth.hub_cards.model_facts import (
    Trained,
    describe_privacy,
    glance,
    making,
    own_limits,
    read_trained,
    summary,
    train_counts,
    trained_on,
)
from clinsynth.hub_cards.model_snippets import SNIPPETS
from clinsynth.hub_cards.model_text_to_image import TEXT_TO_IMAGE, lora_snippet, prompt_table
from clinsynth.hub_cards.render import LOCAL, render_card, repository_name
from clinsynth.hub_cards.sample_grid import PICTURE, sample_grid
from clinsynth.hub_cards.sources import Source, Terms
from clinsynth.hub_cards.story import eval_results, tell

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
        story=tell(read),
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
