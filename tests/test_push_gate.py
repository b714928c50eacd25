"""The gate, on evidence that the real measures give: a planted copy, a planted telephone number, and limits."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pushing import make_pictures
from text_posts import LABELS, save_tiny_encoder, write_posts

from clinsynth.data.images import ImageArrays
from clinsynth.hub.gate import Reading, Thresholds, read_gate, refuse
from clinsynth.hub_cards.dataset_card import joint_license
from clinsynth.metrics.images.privacy import image_privacy, thumbnail_features
from clinsynth.metrics.privacy.copies import ThumbnailSpace
from clinsynth.metrics.privacy.exact import count_exact, picture_digests, text_digests
from clinsynth.metrics.records import MeasurementSettings

CLASSES = ["healthy", "mild", "severe"]
NUMBER = "call 555 0142 7788 at night."


def picture_evidence(copies: int = 0, noise: int = 0) -> dict[str, Any]:
    """Evidence on 30 new pictures, of which `copies` are train pictures with `noise` grey levels added."""
    sides = []
    for count, seed in ((16, 1), (40, 2), (10, 3)):
        images, labels = make_pictures(count, seed)
        sides.append(ImageArrays(images[:, None], labels, CLASSES))
    train, test, made = sides
    images = made.images.copy()
    altered = train.images[:copies].astype(int) + np.random.default_rng(4).integers(
        -noise, noise + 1, (copies, 1, 28, 28)
    )
    images[:copies] = np.clip(altered, 0, 255)
    made = replace(made, images=images)
    features = thumbnail_features(ThumbnailSpace.of(train.images), made, test, train)
    real = {"train": train, "validation": replace(test, images=255 - test.images // 2), "test": test}
    privacy = image_privacy(made, real, features, MeasurementSettings("thumbs", 20))
    return {"privacy": json.loads(json.dumps(privacy))}


def failing(evidence: dict[str, Any], **limits: float) -> list[Reading]:
    return [reading for reading in read_gate(evidence, Thresholds(**limits)) if not reading.passed]


def test_new_pictures_pass_and_one_copy_does_not() -> None:
    assert failing(picture_evidence()) == []
    exact, single = failing(picture_evidence(copies=1))
    assert str(single) == "single copies: 1 of 30 images (limit: 0.00%)"
    assert str(exact) == "exact copies: 1 of 30 images (train 1) (limit: 0.00%)"
    assert "the gate refuses runs/set: exact copies: 1 of 30" in refuse([exact], "runs/set")
    assert failing(picture_evidence(copies=1), max_exact_copies=0.04, max_near_copies=0.04) == []
    assert refuse([replace(exact, passed=True)], "runs/set") == ""


ALTERED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it is": lambda image: image,
    "a quarter turn": lambda image: np.rot90(image, 1, (1, 2)),
    "upside down and mirrored": lambda image: image[:, ::-1, ::-1],
    "mirrored, then turned": lambda image: np.rot90(image[:, :, ::-1], 3, (1, 2)),
    "inverted": lambda image: 255 - image,
    "channels in another order": lambda image: image[[2, 0, 1]],
    "all of these": lambda image: 255 - np.rot90(image[[1, 0, 2], ::-1], 1, (1, 2)),
}


@pytest.mark.parametrize("altered", ALTERED)
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_one_real_picture_of_whichever_split_is_counted(altered: str, split: str) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (40, 3, 12, 12), dtype=np.uint8)
    real = {name: picture_digests(pictures[start::4]) for start, name in enumerate(("train", "validation", "test"))}
    start = list(real).index(split)
    made = [*pictures[3::4], ALTERED[altered](pictures[start])]
    found = count_exact(picture_digests(made), real)
    assert (found["count"], found["n_synthetic"], found["rows"]) == (1, 11, [10])
    assert found["splits"] == {name: int(name == split) for name in real}


@pytest.mark.parametrize(
    "copy",
    [
        "My name is Ann; I can't sleep!",
        "MY NAME IS ANN...  I CAN’T SLEEP",
        "Mу nаmе is Аnn, I can't slееp",
        "My\u200b name is A\u0301nn I\u202e can't sleep",
        "Ｍｙ name is Ann I can't sleep",
    ],
)
def test_one_real_text_in_other_letters_is_counted(copy: str) -> None:
    real = {"test": text_digests(["my name is ann, i can't sleep", "!!!"]), "train": text_digests(["I sleep well"])}
    found = count_exact(text_digests(["I can sleep", copy, "???"]), real)
    assert found["rows"] == [1] and found["splits"] == {"test": 1, "train": 0}


def test_near_copies_beyond_false_alarms_do_not_pass() -> None:
    evidence = picture_evidence(copies=6, noise=2)
    names = {reading.name.partition(" by ")[0] for reading in failing(evidence)}
    assert "near copies" in names and "exact copies" not in names
    near = [reading for reading in failing(evidence, max_near_copies=1.0) if reading.name.startswith("near")]
    assert near == []


def test_what_was_not_measured_does_not_pass() -> None:
    evidence = picture_evidence()
    for record in evidence["privacy"]["copies"]:
        record["p_value"] = None
    evidence["privacy"]["records"] = []
    assert [reading.value for reading in failing(evidence)] == ["not measured"] * 3
    del evidence["privacy"]["exact"]["splits"]["validation"]
    assert failing(evidence)[0].name == "exact copies of train, validation and test samples"


@pytest.mark.parametrize("empty", [None, {}, [], "none", 0])
def test_evidence_with_an_empty_part_was_not_measured(empty: Any) -> None:
    evidence = picture_evidence()
    for part in ("exact", "copies", "records"):
        readings = failing({"privacy": evidence["privacy"] | {part: empty}})
        assert readings and {reading.value for reading in readings} == {"not measured"}, part
    for record in ({"fidelity": [], "data": empty, "privacy": empty, "memorisation": empty}, {"privacy": empty}, {}):
        assert {reading.value for reading in failing(record)} == {"not measured"}
    for name in ("p_value", "count", "detector"):
        copies = [{**record, name: empty} for record in evidence["privacy"]["copies"]]
        read_gate({"privacy": evidence["privacy"] | {"copies": copies}}, Thresholds())


def test_a_share_closer_to_train_than_chance_does_not_pass() -> None:
    evidence = picture_evidence()
    for record in evidence["privacy"]["records"]:
        if (record["metric"], record["label"]) == ("dcr_share", "overall"):
            record |= {"value": 0.9, "interval": [0.85, 0.95], "chance_range": [0.4, 0.6], "floor": 0.5}
    found = failing(evidence)
    assert len(found) == 2 and all("90.0% are closer to train" in reading.value for reading in found)
    assert failing(evidence, max_dcr_share=0.92) == []


def test_one_planted_telephone_number_in_texts_does_not_pass(tmp_path: Path) -> None:
    pytest.importorskip("datasketch")
    from clinsynth.models.text_encoders import load_text_encoder
    from clinsynth.study.text_evidence import text_evidence

    real = {"train": write_posts(60, 1, "a"), "validation": write_posts(12, 4, "d"), "test": write_posts(60, 2, "b")}
    real["train"].texts[7] += f" {NUMBER}"
    made = write_posts(60, 3, "c")
    encoder = load_text_encoder(str(save_tiny_encoder(tmp_path / "encoder", real["train"].texts)))

    def measure(name: str) -> dict[str, Any]:
        evidence = text_evidence(made, real, LABELS, encoder, tmp_path / name, replicates=10)
        return json.loads(json.dumps(evidence))

    assert not any("train texts" in reading.name for reading in failing(measure("clean")))
    made.texts[5] += f" {NUMBER}"
    planted = measure("planted")
    (leaked,) = [reading for reading in failing(planted) if "train texts" in reading.name]
    assert leaked.name == "telephone numbers of train texts" and leaked.value == "1.67% of 60 texts"
    assert leaked.limit == "0.00% beyond 0.00% of real texts"
    names = [reading.name for reading in failing(planted, max_entity_leakage=0.02)]
    assert leaked.name not in names and NUMBER not in json.dumps(planted)


def test_a_text_that_repeats_its_own_prompt_does_not_pass(tmp_path: Path) -> None:
    pytest.importorskip("datasketch")
    from clinsynth.models.text_encoders import load_text_encoder
    from clinsynth.study.text_evidence import text_evidence

    real = {"train": write_posts(60, 1, "a"), "validation": write_posts(12, 4, "d"), "test": write_posts(60, 2, "b")}
    real["test"].texts[:20] = real["train"].texts[:20]  # a data set whose splits share texts hides a copy of train
    made = replace(write_posts(60, 3, "c"), example_ids=[[real["train"].ids[row]] for row in range(60)])
    made.texts[30] = real["train"].texts[30]
    encoder = load_text_encoder(str(save_tiny_encoder(tmp_path / "encoder", real["train"].texts)))
    evidence = json.loads(json.dumps(text_evidence(made, real, LABELS, encoder, tmp_path, replicates=10)))
    found = {reading.name: reading.value for reading in failing(evidence)}
    assert found["exact copies of the prompt's own examples"] == "1.67% of 60 texts"
    assert found["exact copies"] == "1 of 60 texts (train 1)"


def test_limits_are_shares() -> None:
    with pytest.raises(ValueError, match=r"--max_near_copies must be in \[0, 1\], got 3"):
        Thresholds(max_near_copies=3)
    with pytest.raises(ValueError, match="--max_dcr_share must be"):
        Thresholds(max_dcr_share=55)


def test_several_sets_share_the_strictest_licence() -> None:
    assert joint_license(["mit", "mit"]) == "mit" and joint_license(["mit", "cc-by-nc-4.0"]) == "cc-by-nc-4.0"
    assert joint_license(["mit", None]) == "other"
