"""Over-sampling of short classes, in pixels and in features, and what too small classes make of it."""

import numpy as np
import pytest

from clinsynth.data.images import ImageArrays
from clinsynth.trainers.classifiers.kinds import ImageClassifiers
from clinsynth.trainers.classifiers.rows import ArmRefusedError, BodyFeatures, oversample, oversample_features

pytest.importorskip("imblearn")

NAMES = ["dark", "medium", "bright"]
METHODS = ("random_oversampling", "smote", "borderline_smote", "adasyn")


def overlapping(*counts: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, 4) around means that lie near each other, and their labels."""
    labels = np.repeat(np.arange(len(counts)), counts)
    noise = np.random.default_rng(0).normal(0, 1, (len(labels), 4))
    return (labels[:, None] * 0.7 + noise).astype(np.float32), labels


@pytest.mark.parametrize("method", METHODS)
def test_short_classes_are_filled_up(method: str):
    rows, labels = overlapping(40, 20, 12)
    made, made_labels, notes = oversample(rows, labels, NAMES, method, None, seed=0)
    counts = np.bincount(made_labels, minlength=3)
    assert counts[0] == 0 and notes == []
    assert np.abs(counts[1:] - [20, 28]).max() <= (4 if method == "adasyn" else 0)  # whose shares are rounded
    again, other = (oversample(rows, labels, NAMES, method, None, seed=s)[0] for s in (0, 1))
    assert np.array_equal(made, again) and not np.array_equal(made, other)


def test_smote_stays_between_rows_of_its_class():
    rows, labels = overlapping(40, 20, 12)
    made, made_labels, _ = oversample(rows, labels, NAMES, "smote", 30, seed=0)
    assert np.bincount(made_labels, minlength=3).tolist() == [0, 10, 18]
    mine = rows[labels == 2]
    ahead = made[made_labels == 2][:, None] - mine[None]  # (m, 12, 4): each lies on a line between two of the rows
    direction = mine[None] - mine[:, None]
    length = np.linalg.norm(ahead, axis=2)
    detour = length[:, :, None] + length[:, None, :] - np.linalg.norm(direction, axis=2)[None]
    detour[:, range(12), range(12)] = np.inf
    assert detour.min((1, 2)).max() < 1e-4


def test_random_oversampling_repeats_rows():
    rows, labels = overlapping(10, 4)
    made, made_labels, _ = oversample(rows, labels, NAMES[:2], "random_oversampling", None, seed=0)
    assert (made_labels == 1).all() and {tuple(row) for row in made} <= {tuple(row) for row in rows[labels == 1]}


@pytest.mark.parametrize("method", METHODS[1:])
def test_small_classes_get_fewer_neighbours_or_are_refused(method: str):
    rows, labels = overlapping(20, 3)
    made, _, notes = oversample(rows, labels, NAMES[:2], method, None, seed=0)
    assert f"{method}: medium has 3 rows, so 2 neighbours, not 5" in notes and len(made) > 0
    with pytest.raises(ArmRefusedError, match=f"{method} needs two train rows a class, medium has 1"):
        oversample(*overlapping(20, 1), NAMES[:2], method, None, seed=0)


def test_nothing_to_do_is_said():
    with pytest.raises(ArmRefusedError, match="no class is short"):
        oversample(*overlapping(5, 5), NAMES[:2], "smote", None, seed=0)
    rows, labels = overlapping(20, 8)
    for method in ("adasyn", "borderline_smote"):  # classes far apart have no border
        with pytest.raises(ArmRefusedError, match=f"{method} made nothing"):
            oversample(rows + 100 * labels[:, None], labels, NAMES[:2], method, None, seed=0)


def test_images_stay_images():
    labels = np.array([0] * 12 + [1] * 6)
    images = np.random.default_rng(0).integers(0, 256, (18, 3, 8, 8)).astype(np.uint8)
    train = ImageArrays(images, labels, NAMES[:2], {"sex": np.array(["f"] * 18)})
    made, _ = ImageClassifiers().oversample(train, "smote", None, seed=0)
    assert made.images.dtype == np.uint8 and made.images.shape == (6, 3, 8, 8)
    data = train.followed_by(made)
    assert (data.images[:18] == images).all() and data.labels[18:].tolist() == [1] * 6
    assert data.groups["sex"].tolist() == ["f"] * 18 + ["unknown"] * 6


def test_features_are_drawn_around_the_mean_of_their_class():
    rng = np.random.default_rng(0)
    labels = np.array([0] * 200 + [1] * 20 + [2] * 3)
    values = (10 * labels[:, None] + rng.normal(0, [1, 2, 0.1], (223, 3))).astype(np.float32)
    train = BodyFeatures(values, labels, NAMES)
    made, notes = oversample_features(train, "gaussian", None, seed=0)
    assert np.bincount(made.labels).tolist() == [0, 180, 197] and notes == [] and made.values.dtype == np.float32
    for number in (1, 2):
        mine = made.values[made.labels == number]
        assert np.allclose(mine.mean(0), values[labels == number].mean(0), atol=0.5)
        assert np.allclose(mine.std(0), [1, 2, 0.1], rtol=0.3, atol=0.2)
    assert np.bincount(oversample_features(train, "gaussian", 30, seed=0)[0].labels).tolist() == [0, 10, 27]
    with pytest.raises(ArmRefusedError, match="no class is short"):
        oversample_features(train, "gaussian", 3, seed=0)
