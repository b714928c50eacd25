"""`clinsynth evaluate images`: from two data sets to evidence.json and report.html; stop, start again; bad input."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from clinsynth import cli
from clinsynth.metrics import distances
from clinsynth.models import image_encoders as feature_extractor
from clinsynth.scripts.evaluate_images import main
from clinsynth.study.arguments import EvaluateImagesArguments
from clinsynth.synthesis.sets import load_synthetic_images, with_labels_of

NAMES = ["clear", "spotted", "bright"]
TRAIN = (30, 24, 12)


def draw(counts: tuple[int, ...], seed: int, channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (n, 28, 28, channels) of three classes that differ in brightness."""
    labels = np.repeat(np.arange(len(counts)), counts)
    noise = np.random.default_rng(seed).integers(0, 60, size=(len(labels), 28, 28, channels))
    return (noise + 60 * labels[:, None, None, None]).astype(np.uint8), labels


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("real") / "tiny.npz"
    splits = {"train": TRAIN, "val": (6, 6, 6), "test": (22, 21, 10)}
    arrays = {}
    for seed, (name, counts) in enumerate(splits.items()):
        images, labels = draw(counts, seed)
        arrays |= {f"{name}_images": images, f"{name}_labels": labels[:, None]}
    np.savez(path, **arrays)
    return path


def png(pixels: np.ndarray) -> dict[str, object]:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write_synthetic(
    folder: Path, images: np.ndarray | list[np.ndarray], labels: np.ndarray, names: list[str] = NAMES
) -> Path:
    rows = [
        {"image": png(image), "label": int(label), "seed": i}
        for i, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    features = Features(image=ImageFeature(), label=ClassLabel(names=names), seed=Value("int64"))
    (folder / "data").mkdir(parents=True)
    columns = {name: [row[name] for row in rows] for name in features}
    Dataset.from_dict(columns, features=features).to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    return folder


@pytest.fixture
def synthetic(tmp_path: Path, real: Path) -> Path:
    """Colour, without the class "clear"; row 0 is a copy of train picture 30."""
    images, labels = draw((0, 40, 15), seed=9)
    images[0] = np.load(real)["train_images"][30]
    folder = write_synthetic(tmp_path / "synthetic", images, labels)
    (folder / "generation.json").write_text(json.dumps({"complete": True, "generator": {"guidance_scale": 1.5}}))
    return folder


def arguments(real: Path, synthetic: Path, output_dir: Path, **changes: object) -> EvaluateImagesArguments:
    fast = {"bootstrap": 10, "classifier_seeds": 2, "classifier_epochs": 1, "label_names": NAMES}
    return EvaluateImagesArguments(
        **{**fast, **changes}, real=str(real), synthetic=str(synthetic), output_dir=str(output_dir)
    )


@pytest.fixture(autouse=True)
def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_extractor.train_default_extractor, "__defaults__", (0, 1, None))


def test_writes_evidence_and_a_report(tmp_path: Path, real: Path, synthetic: Path) -> None:
    main(arguments(real, synthetic, tmp_path / "evidence"))
    evidence = json.loads((tmp_path / "evidence" / "evidence.json").read_text())
    records = {(r["reference"], r["metric"], r["label"]): r for r in evidence["measurements"]}
    assert len(records) == 2 * 9 * (1 + len(NAMES))
    overall = records["test", "kid", "overall"]
    assert overall["interval"][0] < overall["value"] < overall["interval"][1]
    assert (overall["n_real"], overall["n_synthetic"]) == (31, 46)  # 21 + 10 real; 40 and 15 cut to 31 and 15
    assert overall["floor"] is not None and overall["floor_held_out"] is not None
    assert "small ResNet trained on the real train split" in overall["extractor"]
    assert records["test", "frechet", "clear"]["note"] == "not measured, n=0"
    assert records["train", "frechet", "spotted"]["biased"]
    assert evidence["privacy"]["verdict"] == "copies found"
    first = evidence["privacy"]["pairs"][0]
    assert (first["synthetic_row"], first["train_row"], first["verdict"]) == (0, 30, "exact copy")
    assert evidence["collapse"]["sentence"] and 0 <= records["test", "recall", "spotted"]["value"] <= 1
    assert evidence["data"]["counts"]["synthetic"] == {"clear": 0, "spotted": 40, "bright": 15}
    comparison = evidence["classifier"]["comparisons"][0]
    assert comparison["verdict"] in ("helps", "no evidence", "hurts") and comparison["seeds"] == 2
    report = (tmp_path / "evidence" / "report.html").read_text()
    assert "guidance_scale" in report and "clear" in report and "not measured, n=0" in report


def test_a_stopped_run_goes_on_with_what_is_finished(
    tmp_path: Path, real: Path, synthetic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = arguments(real, synthetic, tmp_path / "stopped", classifier="none")
    measure, calls = distances.measure_kid, []

    def stop_in_the_third(*given: object) -> object:
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(*given)

    monkeypatch.setattr(distances, "measure_kid", stop_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        main(args)
    assert not (tmp_path / "stopped" / "evidence.json").exists()
    main(args)
    assert len(calls) == 8 + 1  # the third comparison is begun anew
    stopped = json.loads((tmp_path / "stopped" / "evidence.json").read_text())
    monkeypatch.setattr(distances, "measure_kid", measure)
    main(arguments(real, synthetic, tmp_path / "whole", classifier="none"))
    whole = json.loads((tmp_path / "whole" / "evidence.json").read_text())
    assert stopped["measurements"] == whole["measurements"]
    assert stopped["privacy"] == whole["privacy"]
    assert "--classifier none" in (tmp_path / "whole" / "report.html").read_text()


def test_grey_synthetic_pictures_turn_the_real_ones_grey(tmp_path: Path, real: Path) -> None:
    images, labels = draw((20, 20, 20), seed=5, channels=1)
    folder = write_synthetic(tmp_path / "grey", images[..., 0], labels)
    main(arguments(real, folder, tmp_path / "evidence", classifier="none", bootstrap=0))
    evidence = json.loads((tmp_path / "evidence" / "evidence.json").read_text())
    assert (evidence["data"]["channels"], evidence["data"]["resolution"]) == (1, 28)
    assert evidence["generation"] is None
    assert all(record["interval"] is None for record in evidence["measurements"])


def test_labels_are_matched_by_name(tmp_path: Path) -> None:
    images, labels = draw((2, 3), seed=0)
    arrays = load_synthetic_images(write_synthetic(tmp_path / "two", images, labels, ["bright", "clear"]))
    renumbered = with_labels_of(load_synthetic_images(write_synthetic(tmp_path / "three", images, labels)), arrays)
    assert renumbered.label_names == NAMES
    assert renumbered.labels.tolist() == [2, 2, 0, 0, 0]


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="absent is not a folder"):
        load_synthetic_images(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"holds no \.parquet file; give the folder that"):
        load_synthetic_images(tmp_path)
    folder = write_synthetic(tmp_path / "empty", [], np.array([]))
    with pytest.raises(ValueError, match="empty holds no image"):
        load_synthetic_images(folder)


def test_columns_that_are_missing_are_named(tmp_path: Path) -> None:
    Dataset.from_dict({"picture": [1], "label": [0]}).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"needs columns image and label .* has picture, label"):
        load_synthetic_images(tmp_path)


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    features = Features(image=ImageFeature(), label=ClassLabel(names=NAMES))
    broken = {"image": [{"bytes": b"no picture", "path": "third.png"}], "label": [0]}
    Dataset.from_dict(broken, features=features).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"third\.png"):
        load_synthetic_images(tmp_path)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    images, labels = draw((2, 2, 2), seed=0)
    shard = write_synthetic(tmp_path / "cut", images, labels) / "data" / "train-00000-of-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"train-00000-of-00001\.parquet cannot be read"):
        load_synthetic_images(tmp_path / "cut")


def test_classes_that_the_real_set_lacks_are_named(
    tmp_path: Path, real: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = draw((2, 2, 2), seed=0)
    folder = write_synthetic(tmp_path / "other", images, labels, ["clear", "spotted", "striped"])
    words = f"evaluate images --real {real} --label_names {','.join(NAMES)} --synthetic {folder}".split()
    with pytest.raises(SystemExit, match="2"):
        cli.main([*words, "--output_dir", str(tmp_path / "evidence")])
    assert "classes that the real one has not: striped" in capsys.readouterr().err
    assert not (tmp_path / "evidence").exists()


def test_an_unfinished_generation_is_refused(tmp_path: Path, real: Path, synthetic: Path) -> None:
    (synthetic / "generation.json").write_text(json.dumps({"complete": False}))
    with pytest.raises(ValueError, match="is not finished; start its"):
        main(arguments(real, synthetic, tmp_path / "evidence"))


@pytest.mark.parametrize(("flag", "value"), [("bootstrap", -1), ("classifier_seeds", 0), ("classifier_epochs", 0)])
def test_numbers_out_of_range_are_refused(flag: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"--{flag} must be >= .*, got {value}"):
        EvaluateImagesArguments(**{flag: value})
