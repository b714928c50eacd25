"""--from_images and what is kept: sources, strengths, checks, shortfalls, restarts and wrong flags."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from helpers import LABELS, stopping, tiny_pipeline, write_npz
from PIL import Image
from test_generate_images import SCHEDULE, arguments, pixels, read_rows

from clinsynth.data.arguments import ImageDataArguments
from clinsynth.data.images import ImageArrays, load_image_arrays
from clinsynth.data.phantom_fundus import GRADES
from clinsynth.images import from_png, to_picture
from clinsynth.judges.checklists import sample_id
from clinsynth.judges.judges import load_judge
from clinsynth.models.generators import Diffusion, Sample
from clinsynth.scripts.generate_images import GenerateImagesArguments, main
from clinsynth.synthesis.arguments import parse_share, parse_strength
from clinsynth.synthesis.image_checks import (
    NO_ANSWER,
    OTHER_CLASS,
    UNCHANGED,
    UNMET,
    ChangeCheck,
    ChecklistCheck,
    ClassCheck,
    Keep,
)
from clinsynth.synthesis.image_shards import ImageShards, write_image_shards
from clinsynth.synthesis.image_sources import TRIED, ImageSources, load_sources, sweep_strengths

NAMES = "healthy,mild,severe"
PHANTOM = "phantom-fundus?size=64&train=60&validation=10&test=10"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline(**SCHEDULE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in three levels of grey; the first mild train picture also stands in the test split."""
    path = write_npz(tmp_path_factory.mktemp("data") / "data.npz")
    arrays = dict(np.load(path))
    arrays["test_images"][0] = arrays["train_images"][6]
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def eyes() -> ImageArrays:
    """Drawn eyes of 64 pixels, on which the measuring judge is right."""
    return load_image_arrays(ImageDataArguments(dataset=PHANTOM))["train"]


def from_images(model: Path, data: Path, output_dir: Path, **changes: Any) -> GenerateImagesArguments:
    settings = {"from_images": str(data), "label_names": NAMES, "strength": 0.5, "least_change": 0, "per_class": 4}
    return arguments(model, output_dir, **settings | changes)


def generation(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "generation.json").read_text())


def test_rows_name_a_train_picture_of_another_class(model: Path, data: Path, tmp_path: Path) -> None:
    main(from_images(model, data, tmp_path / "out"))
    splits = load_image_arrays(ImageDataArguments(dataset=str(data)))
    ids = {name: [sample_id(to_picture(image)) for image in side.images] for name, side in splits.items()}
    rows = read_rows(tmp_path / "out")
    assert len(rows) == 12 and len({row["source_id"] for row in rows}) > 6
    for row in rows:
        source = ids["train"].index(row["source_id"])
        assert row["source_label"] == LABELS[splits["train"].labels[source]] != LABELS[row["label"]]
        assert row["source_id"] not in ids["test"] + ids["validation"] and row["strength"] == 0.5
    facts = generation(tmp_path / "out")["generator"]["image_to_image"]
    assert facts["left_out_as_in_another_split"] == 1
    assert facts["sources"] == {"healthy": 11, "mild": 12, "severe": 11}
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "made from a real image" in readme and "no row is a patient" not in readme


def test_a_row_is_made_again_from_its_source_and_seed(model: Path, data: Path, tmp_path: Path) -> None:
    main(from_images(model, data, tmp_path / "out", strength="healthy=0.5,mild=1,severe=0.9"))
    train = load_image_arrays(ImageDataArguments(dataset=str(data)))["train"]
    by_id = {sample_id(to_picture(image)): image for image in train.images}
    pipe = tiny_pipeline(**SCHEDULE)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    rows = read_rows(tmp_path / "out")
    assert [row["strength"] for row in rows] == [0.5] * 4 + [1.0] * 4 + [0.9] * 4
    for row, image in zip(rows, pixels(tmp_path / "out"), strict=True):
        again = pipe(
            row["label"],
            image=to_picture(by_id[row["source_id"]]),
            strength=row["strength"],
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(row["seed"]),
        ).images[0]
        assert np.abs(np.asarray(again).astype(int) - image[0]).max() <= 1


def test_rows_depend_on_neither_batches_nor_a_stop(model: Path, data: Path, tmp_path: Path) -> None:
    main(from_images(model, data, tmp_path / "a", batch_size=64, shard_size=3))
    main(from_images(model, data, tmp_path / "b", batch_size=5, shard_size=3))
    assert np.abs(pixels(tmp_path / "a") - pixels(tmp_path / "b")).max() <= 1
    before = read_rows(tmp_path / "a")
    for path in sorted((tmp_path / "a" / "data").glob("*.parquet"))[1:3]:
        path.unlink()
    main(from_images(model, data, tmp_path / "a", batch_size=64, shard_size=3))
    assert read_rows(tmp_path / "a") == before


def test_only_the_named_classes_give_sources(model: Path, data: Path, tmp_path: Path) -> None:
    main(from_images(model, data, tmp_path / "out", from_class="mild", counts="healthy=5,severe=5", per_class=None))
    assert {row["source_label"] for row in read_rows(tmp_path / "out")} == {"mild"}
    main(from_images(model, data, tmp_path / "own", from_class="own"))
    assert all(row["source_label"] == LABELS[row["label"]] for row in read_rows(tmp_path / "own"))
    with pytest.raises(ValueError, match=r"no train image of --from_images .* can be made into mild"):
        main(from_images(model, data, tmp_path / "none", from_class="mild"))
    with pytest.raises(ValueError, match="--from_class moderate: 'moderate' is no class"):
        main(from_images(model, data, tmp_path / "none", from_class="moderate"))


def test_sources_whose_classes_are_all_named_otherwise_are_told(model: Path, data: Path, tmp_path: Path, caplog):
    main(from_images(model, data, tmp_path / "same", per_class=1))
    assert "none of the model's classes" not in caplog.text
    main(from_images(model, data, tmp_path / "other", label_names="none,some,much", per_class=1))
    assert "none of the model's classes (healthy, mild, severe), but none, some, much: all" in caplog.text
    assert {row["source_label"] for row in read_rows(tmp_path / "other")} <= {"none", "some", "much"}


def write_table(folder: Path) -> Path:
    """A data set of 24 pictures: body sites by turns, "hand" never in class severe, the last of each class unknown."""
    rng, lines = np.random.default_rng(0), []
    for row in range(24):
        name, site = f"{row}.png", ("hand", "back", "face", "back")[row // 3 % 4]
        label, split = list(LABELS.values())[row % 3], "test" if row < 3 else "validation" if row < 6 else "train"
        site = "" if row >= 21 else "back" if label == "severe" and site == "hand" else site
        Image.fromarray(rng.integers(0, 256, (28, 28), dtype=np.uint8)).save(folder / name)
        lines.append({"image": name, "label": label, "site": site, "split": split})
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_source_and_class_agree_in_the_columns_of_the_table(model: Path, tmp_path: Path) -> None:
    path, table = write_table(tmp_path), tmp_path / "agree.yaml"
    generator = Diffusion(tiny_pipeline())

    def sites(text: str) -> dict[str, set[str]]:
        table.write_text(text)
        args = from_images(model, path, tmp_path / "out", compatible=str(table))
        sources = load_sources(args, generator, [0, 1, 2], args.seed)
        groups = load_image_arrays(ImageDataArguments(dataset=str(path), label_names=NAMES))["train"].groups["site"]
        return {LABELS[label]: set(groups[rows]) for label, rows in sources.of_class.items()}

    assert sites("agree: [site]")["severe"] == {"back", "face"}
    assert "hand" in sites("agree: [site]")["mild"]
    assert sites("agree: [site]\nclasses: {severe: {site: [hand]}}")["severe"] == {"hand"}
    with pytest.raises(ValueError, match="has no column 'skin_type' of groups; it has"):
        sites("agree: [skin_type]")
    with pytest.raises(ValueError, match="names the class 'moderate'"):
        sites("agree: [site]\nclasses: {moderate: {site: [hand]}}")
    with pytest.raises(ValueError, match=r"must hold `agree: \[column"):
        sites("site: hand")


def all_others(images: np.ndarray, labels: list[int]) -> ImageSources:
    """Sources of two classes, of which every picture may become the other one."""
    numbers = np.array(labels)
    of_class = {label: np.flatnonzero(numbers != label) for label in (0, 1)}
    ids = [sample_id(to_picture(image)) for image in images]
    return ImageSources(images, ids, [f"grade {label}" for label in labels], of_class, {0: 0.3, 1: 0.3}, {})


def test_a_picture_that_is_its_source_moved_or_mirrored_is_unchanged(eyes: ImageArrays) -> None:
    sources = all_others(eyes.images, [row % 2 for row in range(len(eyes.images))])
    check = ChangeCheck.of(sources, eyes.images, None)
    labels, seeds = [0, 1] * 10, list(range(20))
    own = sources.images_of(labels, seeds)
    assert check(own, labels, seeds) == [UNCHANGED] * 20
    assert check(own[..., ::-1].copy(), labels, seeds).count(UNCHANGED) == 20
    noisy = np.clip(own + np.random.default_rng(0).normal(0, 3, own.shape), 0, 255).astype(np.uint8)
    assert check(noisy, labels, seeds) == [UNCHANGED] * 20
    rows = [(sources.choose(*pair) + 2) % len(eyes.images) for pair in zip(labels, seeds, strict=True)]
    assert check(eyes.images[rows], labels, seeds).count(None) >= 18
    assert "train images" in check.facts["from"] and 0.2 < check.least < 1
    with pytest.raises(ValueError, match=r"9 train images without a duplicate.*--least_change"):
        ChangeCheck.of(sources, eyes.images[:9], None)


def test_a_run_that_changes_too_little_falls_short_and_says_so(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(from_images(model, data, tmp_path / "out", least_change=2, most_draws=3, per_class=2))
    found = generation(tmp_path / "out")
    assert found["rejected"] == {"not finite": 0, "unchanged": 18} and found["complete"]
    assert found["given_up"] == {"rows": 6, "after_draws": 3} and sum(found["produced"].values()) == 0
    assert found["generator"]["keep"]["changed"]["from"] == "--least_change"
    printed = capsys.readouterr().out
    assert "rejected draws: unchanged 18" in printed and "6 rows were given up after 3 draws" in printed
    assert "0 of 6 images; there are too few of: healthy 2, mild 2, severe 2" in printed


def checklist_check(least: str = "4/5") -> ChecklistCheck:
    judge = load_judge("measure", None, "phantom-fundus")
    return ChecklistCheck(judge, parse_share(least), frozenset(), dict(enumerate(GRADES)))


def drawing(eyes: ImageArrays) -> Sample:
    """A generator whose seed decides which drawn eye it shows, whatever the class."""

    def sample(labels: list[int], seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        return eyes.images[[seed % len(eyes.images) for seed in seeds]], np.ones(len(seeds), dtype=bool)

    return sample


def write(folder: Path, sample: Sample, keep: Keep, batch_size: int = 8, finish: bool = True) -> None:
    folder.mkdir(exist_ok=True)
    plan = ImageShards(folder, [0] * 9 + [3] * 6, dict(enumerate(GRADES)), 1, 5, most_draws=4)
    plan.begin({"keep": {}})
    write_image_shards(plan, sample, batch_size, reject=keep)
    if finish:
        plan.finish({"keep": {}})


def test_what_the_checklist_does_not_confirm_is_drawn_anew(eyes: ImageArrays, tmp_path: Path) -> None:
    check = checklist_check()
    write(tmp_path / "all", drawing(eyes), Keep({}))
    write(tmp_path / "out", drawing(eyes), Keep({"checklist": check}))
    before, rows, found = read_rows(tmp_path / "all"), read_rows(tmp_path / "out"), generation(tmp_path / "out")
    met = [met_items(check, row) for row in before]
    assert min(met) < 4 <= max(met)  # some are to be rejected, and some to be kept
    assert all(met_items(check, row) >= 4 for row in rows)
    assert found["rejected"][UNMET] >= sum(count < 4 for count in met)
    assert len(rows) + found["given_up"]["rows"] == 15 and found["given_up"]["after_draws"] == 4
    write(tmp_path / "small", drawing(eyes), Keep({"checklist": check}), batch_size=3)
    assert read_rows(tmp_path / "small") == rows
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "stopped", stopping(drawing(eyes), 16), Keep({"checklist": check}), finish=False)
    write(tmp_path / "stopped", drawing(eyes), Keep({"checklist": check}))
    assert read_rows(tmp_path / "stopped") == rows
    assert generation(tmp_path / "stopped")["rejected"] == found["rejected"]


def met_items(check: ChecklistCheck, row: dict[str, Any]) -> int:
    (answer,) = check.judge.judge_arrays(from_png(row["image"]["bytes"])[None], [GRADES[row["label"]]])
    return sum(answer["scores"].values())


def test_four_of_five_are_counted_exactly_and_no_answer_is_no_guess() -> None:
    check = checklist_check("4/5")
    scores = {item["id"]: 1 for item in check.judge.checklist["conditions"]["grade 2"]}
    first, second, *_ = scores
    assert check.reason({"scores": scores}) is None
    assert check.reason({"scores": {**scores, first: 0}}) is None
    assert check.reason({"scores": {**scores, first: 0, second: 0}}) == UNMET
    assert check.reason({"scores": {}, "failure": "not JSON"}) == NO_ANSWER
    trusted = ChecklistCheck(check.judge, Fraction(4, 5), frozenset([first]), check.names)
    assert trusted.reason({"scores": {**scores, first: 0}}) is None
    assert trusted.reason({"scores": {**scores, second: 0}}) == UNMET  # three of four are fewer than four of five


def test_what_a_classifier_sees_as_another_class_is_drawn_anew(eyes: ImageArrays, tmp_path: Path) -> None:
    from clinsynth.models.image_classifiers import build_small_resnet, predict, save_image_classifier

    names = [*GRADES[::-1]]  # numbered otherwise than the generator's
    network = build_small_resnet(5, 3, seed=1)
    save_image_classifier(network, names, tmp_path / "judge")
    check = ClassCheck(str(tmp_path / "judge"), dict(enumerate(GRADES)))
    seen = [names[number] for number in predict(network, eyes.images[:20]).argmax(1)]
    labels = [GRADES.index(name) for name in seen]
    assert check(eyes.images[:20], labels, [0] * 20) == [None] * 20
    assert check(eyes.images[:20], [(label + 1) % 5 for label in labels], [0] * 20) == [OTHER_CLASS] * 20
    with pytest.raises(ValueError, match=r"--keep_if_class has the classes .*without 'severe'"):
        ClassCheck(str(tmp_path / "judge"), {0: "grade 0", 1: "severe"})
    with pytest.raises(ValueError, match=r"--keep_if_class .*nothing cannot be loaded"):
        ClassCheck(str(tmp_path / "nothing"), dict(enumerate(GRADES)))
    save_image_classifier(build_small_resnet(1000, 3), [f"c{n}" for n in range(1000)], tmp_path / "of-other-things")
    with pytest.raises(ValueError, match=r"classes c0, c1, (c\d+, )+… \(1,000 in all\), without 'grade 0'"):
        ClassCheck(str(tmp_path / "of-other-things"), dict(enumerate(GRADES)))


def test_the_command_keeps_by_class_without_sources(model: Path, data: Path, tmp_path: Path) -> None:
    from clinsynth.models.image_classifiers import build_small_resnet, predict, save_image_classifier

    network = build_small_resnet(3, 1, seed=3)
    save_image_classifier(network, list(LABELS.values()), tmp_path / "judge")
    main(arguments(model, tmp_path / "out", per_class=3, keep_if_class=str(tmp_path / "judge"), most_draws=2))
    rows, found = read_rows(tmp_path / "out"), generation(tmp_path / "out")
    assert "source_id" not in (rows[0] if rows else {}) and set(found["generator"]["keep"]) == {"class"}
    assert all(predict(network, from_png(row["image"]["bytes"])[None]).argmax() == row["label"] for row in rows)
    assert found["rejected"][OTHER_CLASS] >= 3  # the classifier does not see all three classes in each picture
    assert len(rows) + found["given_up"]["rows"] == 9


def test_the_strength_with_most_kept_is_chosen_once(eyes: ImageArrays, tmp_path: Path) -> None:
    sources = all_others(eyes.images, [row % 2 for row in range(len(eyes.images))])
    asked: list[float] = []

    def sampler(at: ImageSources) -> Sample:
        def sample(labels: list[int], seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
            asked.append(at.strengths[labels[0]])
            images = np.full((len(seeds), 3, 64, 64), int(at.strengths[labels[0]] * 100), dtype=np.uint8)
            return images, np.array([number > 0 for number in range(len(seeds))])

        return sample

    def keep(images: np.ndarray, labels: list[int], seeds: list[int]) -> list[str | None]:
        """Class 0 keeps half at 0.5 and none elsewhere; class 1 all at 0.2 and 0.5."""
        good = [(image[0, 0, 0], label) for image, label in zip(images, labels, strict=True)]
        return [
            None if (level == 50 and label == 0 and row % 2) or (level <= 50 and label == 1) else UNCHANGED
            for row, (level, label) in enumerate(good)
        ]

    made_by = {"weights_sha256": "a", "seed": 0}
    names = {0: "grade 0", 1: "grade 1"}
    path = tmp_path / "strengths.json"
    found = sweep_strengths(path, [0.2, 0.5, 0.8], sources, sampler, keep, names, made_by)
    assert found["grade 0"]["chosen"] == 0.5 and found["grade 1"]["chosen"] == 0.2
    assert found["grade 0"]["tried"]["0.5"]["kept"] == 0.5
    assert found["grade 0"]["tried"]["0.2"]["rejected"] == {"not finite": 1, UNCHANGED: TRIED - 1}
    assert asked == [0.2, 0.5, 0.8] * 2
    assert sweep_strengths(path, [0.2, 0.5, 0.8], sources, sampler, keep, names, made_by) == found and len(asked) == 6
    sweep_strengths(path, [0.2, 0.5, 0.8], sources, sampler, keep, names, {**made_by, "weights_sha256": "b"})
    assert len(asked) == 12


def test_the_command_chooses_its_strength_on_validation_pictures(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from clinsynth.models.image_classifiers import build_small_resnet, save_image_classifier

    save_image_classifier(build_small_resnet(3, 1, seed=3), list(LABELS.values()), tmp_path / "judge")
    changes = {"strength": "0.5,1", "keep_if_class": str(tmp_path / "judge"), "most_draws": 1, "per_class": 2}
    main(from_images(model, data, tmp_path / "out", **changes))
    found = json.loads((tmp_path / "out" / "strengths.json").read_text())
    assert found["made_by"]["image_to_image"]["split"] == "validation"
    chosen = generation(tmp_path / "out")["generator"]["image_to_image"]["strength"]
    for name, record in found["classes"].items():
        kept = {float(strength): value["kept"] for strength, value in record["tried"].items()}
        assert chosen[name] == record["chosen"] == min(s for s in kept if kept[s] == max(kept.values()))
    assert capsys.readouterr().out.count("kept of 24 at 0.5: ") == 3


@pytest.mark.parametrize(
    ("text", "found"),
    [(0.3, 0.3), ("0.3", 0.3), ("a=0.2, b=1", {"a": 0.2, "b": 1.0}), ("0.5,0.2,0.5", [0.2, 0.5])],
)
def test_strengths_are_read(text: str | float, found: object) -> None:
    assert parse_strength(text) == found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strength": 0}, r"--strength must be a number in \(0, 1\]"),
        ({"strength": "0.2,1.5"}, r"--strength must be .*got '0.2,1.5'"),
        ({"strength": "mild=0.2,mild=0.3"}, "--strength must be"),
        ({"strength": "much"}, "--strength must be .*got 'much'"),
        ({"strength": "0.2,0.5"}, "is chosen by what is kept; give --keep_if_checklist or --keep_if_class"),
        ({"strength": "mild=0.2"}, "--strength mild=0.2 says nothing of healthy"),
        ({"from_images": None, "from_class": "mild"}, "--from_class is about the sources of --from_images"),
        ({"keep_if_checklist": "5/4"}, r"--keep_if_checklist must be M/N or a share in \(0, 1\], got '5/4'"),
        ({"keep_if_checklist": "most"}, "--keep_if_checklist must be"),
        ({"keep_if_checklist": "4/5"}, "--checklist phantom-fundus has no condition 'healthy', a class of --model"),
        (
            {"keep_if_checklist": "4/5", "judge": "expert", "judge_model": "a.csv"},
            "knows only images that there are",
        ),
        ({"most_draws": 0}, "--most_draws must be at least 1, got 0"),
        ({"least_change": 3}, r"--least_change must be in \[0, 2\], got 3"),
        ({"resolution": 32}, "--resolution is 32, but --model .* draws resolution 28"),
    ],
)
def test_bad_flags_are_named(changes: dict[str, Any], message: str, model: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        main(from_images(model, data, tmp_path / "out", **changes))


def test_a_gan_has_no_image_to_image(data: Path, tmp_path: Path) -> None:
    from clinsynth.pipelines.class_conditioned_gan import ClassConditionedGANPipeline, DCGANGenerator

    generator = DCGANGenerator(sample_size=28, out_channels=1, num_classes=3, width=4)
    ClassConditionedGANPipeline(generator, LABELS).save_pretrained(tmp_path / "gan")
    with pytest.raises(ValueError, match=r"--from_images needs a diffusion model, but --model .* is a GAN"):
        main(from_images(tmp_path / "gan", data, tmp_path / "out"))
