"""What magic_loop.py measures with: fresh pictures of each model, the checklist and the Fréchet distance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.magic_loop import YARDSTICK_SEED, fresh_accelerator
from clinsynth.data.arguments import ImageDataArguments
from clinsynth.data.images import ImageArrays, load_image_arrays
from clinsynth.images import contact_sheet, to_png
from clinsynth.judges.judges import load_judge
from clinsynth.judges.protocol import pass_rate
from clinsynth.metrics.frechet.frechet import frechet_distance, frechet_interval
from clinsynth.models.generators import load_pipeline
from clinsynth.models.image_encoders import FeatureExtractor, train_default_extractor
from clinsynth.run_folder import atomic_write, read_metrics
from clinsynth.seeds import derive_seed
from clinsynth.trainers.preference.candidates import sample_fast
from clinsynth.trainers.preference.guard import Watched

if TYPE_CHECKING:
    from benchmarks.magic_loop import LoopArguments

SHARE_OF_THE_RAREST = 20 / 400  # grade 4 in the test split of phantom-fundus


def yardsticks(args: LoopArguments, root: Path) -> tuple[FeatureExtractor, ImageArrays]:
    """Extractor and real reference pictures, `per_class` of each; beside them the held-out judge is trained."""
    from clinsynth.trainers import train_image_classifier

    form: dict[str, Any] = {"resolution": args.resolution, "channels": args.channels}
    test = int(np.ceil(args.per_class / SHARE_OF_THE_RAREST))
    dataset = f"phantom-fundus?seed={YARDSTICK_SEED}&train={args.train}&test={test}"
    data = load_image_arrays(ImageDataArguments(dataset=dataset, **form))
    if not (root / "held-out" / "best-real").exists():
        train_image_classifier.main(
            train_image_classifier.ImageClassifierArguments(
                dataset=dataset,
                arms="real",
                control="real",
                seeds=1,
                epochs=args.judge_epochs,
                output_dir=str(root / "held-out"),
                **form,
            )
        )
        fresh_accelerator()
    # another seed, so that it is not the judge that training is watched by
    extractor = train_default_extractor(data["train"], data["validation"], root / "extractor", 1, args.judge_epochs)
    return extractor, first_of_each(data["test"], args.per_class)


def first_of_each(data: ImageArrays, per_class: int) -> ImageArrays:
    """The first `per_class` pictures of every class."""
    classes = range(len(data.label_names))
    rows = np.concatenate([np.flatnonzero(data.labels == label)[:per_class] for label in classes])
    return ImageArrays(data.images[rows], data.labels[rows], data.label_names)


def measure_models(
    args: LoopArguments, folder: Path, seed: int, extractor: FeatureExtractor, real: ImageArrays
) -> dict[str, Any]:
    """The record of a seed, kept as `measures-<rounds>.json`."""
    path = folder / f"measures-{args.rounds}.json"
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    refused = frozenset(json.loads((folder / "feedback-1" / "calibration_judge.json").read_text())["refused"])
    judge = Watched(load_judge("measure", None, "phantom-fundus"), refused)
    held_out = Watched(
        load_judge("classifier", str(folder.parent / "held-out" / "best-real"), "phantom-fundus"), frozenset()
    )
    features, passed, models = extractor(real.images), {}, {}
    models["real"] = judged(judge, held_out, real.images, real.labels, real.label_names)[0]
    places = {"first stage": "first", "feedback": f"feedback-{args.rounds}", "by lot": f"by-lot-{args.rounds}"}
    for name, place in places.items():
        images, labels = draw(folder / place, args.per_class, args.num_inference_steps, seed)
        atomic_sheet(folder / f"{place}.png", images, args.per_class)
        models[name], passed[name] = judged(judge, held_out, images, labels, real.label_names)
        models[name] |= distance(features, extractor(images), args.n_bootstrap)
    record = {"seed": seed, "rounds": args.rounds, "refused": sorted(refused), "models": models}
    first = models["first stage"]["frechet"]
    for name, place in (("feedback", "feedback"), ("by lot", "by-lot")):
        rounds = [stopped(folder / f"{place}-{number}") for number in range(1, args.rounds + 1)]
        models[name]["stopped"] = rounds
        models[name]["rise"] = rise(passed[name], passed["first stage"], args.n_bootstrap)
        models[name]["frechet_ratio"] = models[name]["frechet"] / first
    atomic_write(path, json.dumps(record, indent=1) + "\n")
    return record


def draw(model: Path, per_class: int, steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Fresh pictures uint8 (n, channels, side, side), those of a class in a row, and labels (n,)."""
    pipeline = load_pipeline(str(model))
    labels = np.repeat(np.arange(pipeline.num_classes), per_class)
    seeds = [derive_seed(seed, 98, i) for i in range(len(labels))]
    sample = sample_fast(pipeline, steps)
    parts = [sample(labels[i : i + 64].tolist(), seeds[i : i + 64])[0] for i in range(0, len(labels), 64)]
    return np.concatenate(parts), labels


def atomic_sheet(path: Path, images: np.ndarray, per_class: int, columns: int = 8) -> None:
    """Write a contact sheet, a row a class."""
    columns = min(columns, per_class)
    rows = np.concatenate([np.arange(first, first + columns) for first in range(0, len(images), per_class)])
    atomic_write(path, to_png(contact_sheet(images[rows], columns)))


def judged(
    judge: Watched, held_out: Watched, images: np.ndarray, labels: np.ndarray, names: list[str]
) -> tuple[dict[str, Any], np.ndarray]:
    """The record of some pictures, and which of them pass."""
    conditions = [names[label] for label in labels]
    shares, passes = judge.scores(images, conditions)
    passed = np.array(passes)
    record = {
        "passed": pass_rate(passes),
        "by_condition": {name: float(passed[labels == label].mean()) for label, name in enumerate(names)},
        "mean_share": float(shares.mean()),
        "held_out_passed": pass_rate(held_out.scores(images, conditions)[1]),
    }
    return record, passed


def distance(real: np.ndarray, drawn: np.ndarray, n_bootstrap: int) -> dict[str, Any]:
    """Fréchet distance and its interval."""
    return {"frechet": frechet_distance(real, drawn), "frechet_interval": frechet_interval(real, drawn, n_bootstrap)}


def rise(now: np.ndarray, before: np.ndarray, n_bootstrap: int) -> dict[str, Any]:
    """Difference of two pass rates of pictures of the same seeds, with its 95 % bootstrap interval over pictures."""
    difference = now.astype(float) - before
    generator = np.random.default_rng(0)
    draws = generator.integers(len(difference), size=(10 * n_bootstrap, len(difference)))
    low, high = np.quantile(difference[draws].mean(1), [0.025, 0.975])
    return {"value": float(difference.mean()), "interval": (float(low), float(high))}


def stopped(model: Path) -> str | None:
    """Why the guard stopped a round's training, None where it did not."""
    records = [record for record in read_metrics(model) if "stopped" in record]
    return records[-1]["stopped"] if records else None


def table(results: list[dict[str, Any]], extractor: str) -> str:
    """Seeds and models as a Markdown table, and what it says of the goals."""
    lines = [
        "| seed | model | passes | rise, points | held-out judge | Fréchet | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for name, model in result["models"].items():
            cells = [
                str(result["seed"]),
                name,
                percent(model["passed"]),
                "",
                percent(model["held_out_passed"]),
                "",
                "",
            ]
            if "rise" in model:
                low, high = model["rise"]["interval"]
                cells[3] = f"{100 * model['rise']['value']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
                cells[6] = f"{model['frechet_ratio']:.2f}"
            if "frechet" in model:
                low, high = model["frechet_interval"]
                cells[5] = f"{model['frechet']:.2f} ({low:.2f} to {high:.2f})"
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *verdict(results), f"Fréchet: {extractor}; intervals of 95 %."])


def percent(rate: dict[str, Any]) -> str:
    """A pass rate with its interval, in percent."""
    low, high = rate["interval"]
    return f"{100 * rate['value']:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def verdict(results: list[dict[str, Any]]) -> list[str]:
    """A line for each of feedback and by lot, over the seeds."""
    lines = []
    for name in ("feedback", "by lot"):
        rises = [100 * result["models"][name]["rise"]["value"] for result in results]
        ratios = [result["models"][name]["frechet_ratio"] for result in results]
        lines.append(
            f"{name}: rise {np.mean(rises):+.1f} points (of the seeds {min(rises):+.1f} to {max(rises):+.1f}), "
            f"Fréchet ratio {np.mean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    return lines
