"""Whose a row is: found by its column's name, kept in one split, chosen and resampled as one; and what is wrong."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clinsynth.data.arguments import ImageDataArguments, TextDataArguments
from clinsynth.data.images import load_image_arrays, load_image_dataset
from clinsynth.data.persons import rank_of
from clinsynth.data.texts import load_text_arrays
from clinsynth.trainers.classifiers.resampling import resampled_rows

FOUND = """patient_id|Patient ID|patientId|PatientID|Patientid|PATIENT|patients|subject|Subject Number|subj_id
participant_id|pid|PtID|MRN|person|user_id|userid|Username|author|case_id|Case Number|caseid|lesion_id|lesion
study_id|StudyInstanceUID
Patienten-ID|Patientennummer|Fallnummer|id_paciente|IDpaciente|numéro_patient|Läsion_ID|患者ID|anonymized_patient_id"""
NOT_FOUND = (
    "label|id|image_id|case|study|sex|patient_age|patient_name|n_patients|session_id|text|visit|lesion_type|site"
)


def write_rows(folder: Path, ids: list[Any], column: str = "patient_id", **more: list[Any]) -> str:
    """A table of noise images, four a person, two persons of a class by turns."""
    rows = []
    for number, own in enumerate(ids):
        pixels = np.random.default_rng(number).integers(0, 256, (28, 28), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        row = {"image": f"{number}.png", "label": "ab"[number // 4 % 2], column: own}
        rows.append(row | {name: values[number] for name, values in more.items()})
    path = folder / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def persons_by_split(spec: str, **flags: Any) -> dict[str, list[int]]:
    """The person (file number // 4) of each row of each split."""
    known = {pixels: number for number in range(120) for pixels in [noise(number)]}
    splits = load_image_dataset(ImageDataArguments(spec, **flags))
    return {name: [known[np.asarray(i).tobytes()] // 4 for i in split["image"]] for name, split in splits.items()}


def noise(number: int) -> bytes:
    return np.random.default_rng(number).integers(0, 256, (28, 28), dtype=np.uint8).tobytes()


def torn(found: dict[str, list[int]]) -> int:
    sets = [set(rows) for rows in found.values()]
    return sum(map(len, sets)) - len(set.union(*sets))


def test_columns_are_found_by_the_names_that_people_use() -> None:
    for column in FOUND.replace("\n", "|").split("|"):
        assert rank_of(column) is not None, column
    for column in NOT_FOUND.split("|"):
        assert rank_of(column) is None, column
    assert rank_of("patient_id") < rank_of("lesion_id") < rank_of("study_id")  # type: ignore[operator]


@pytest.mark.parametrize(
    ("ids", "column", "flags", "said"),
    [
        ([f"p{n // 4}" for n in range(120)], "Patient ID", {}, "persons: by column Patient ID"),
        ([n // 4 for n in range(120)], "case_id", {}, "persons: by column case_id"),
        ([f"p{n // 4}" for n in range(120)], "clinic code", {"group_column": "clinic code"}, "one person's rows kept"),
        ([f"p{n // 4}" + " " * (n % 2) for n in range(120)], "pid", {}, "30 ids in column pid are written in several"),
        ([f"{'Pp'[n % 2]}{n // 4}" for n in range(120)], "pid", {}, "differ by blanks, case or leading zeros"),
        (["0" * (n % 2) + str(n // 4) for n in range(120)], "pid", {}, "30 ids in column pid"),
    ],
)
def test_no_person_is_torn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ids: list[Any], column: str, flags: dict[str, Any], said: str
) -> None:
    with caplog.at_level(logging.INFO, "clinsynth"):
        found = persons_by_split(write_rows(tmp_path, ids, column), **flags)
    assert torn(found) == 0 and said in caplog.text
    assert {name: len(rows) for name, rows in found.items()} == {"train": 88, "validation": 8, "test": 24}


def test_rows_without_an_id_are_persons_of_their_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = write_rows(tmp_path, ["" if n // 4 % 2 == 0 else f"p{n // 4}" for n in range(120)])
    found = persons_by_split(spec)
    assert "60 of 120 rows have no patient_id: each counts as a person of its own" in caplog.text
    labels = {name: {person % 2 for person in rows} for name, rows in found.items()}
    assert labels == {"train": {0, 1}, "validation": {0, 1}, "test": {0, 1}}
    notes = load_image_arrays(ImageDataArguments(spec))["train"].notes
    assert notes == ("60 of 120 rows have no patient_id: each counts as a person of its own",)


def test_all_rows_of_one_person_are_said_to_be_so(tmp_path: Path) -> None:
    spec = write_rows(tmp_path, ["ANONYMOUS"] * 40)
    with pytest.raises(ValueError, match=r"all 40 images name one person, .*--group_column none"):
        load_image_dataset(ImageDataArguments(spec))
    assert len(load_image_dataset(ImageDataArguments(spec, group_column="none"))["test"]) == 8


def test_given_splits_that_share_persons(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    splits = [("train", "train", "val", "test")[n % 4] for n in range(48)]
    spec = write_rows(tmp_path, [f"p{n // 4}" for n in range(48)], split=splits)
    with pytest.raises(
        ValueError, match=r"share persons \(column patient_id\): 12 in train and validation, 12 in train and test, 12"
    ):
        load_image_dataset(ImageDataArguments(spec))
    train = load_image_arrays(ImageDataArguments(spec, allow_shared_groups=True))["train"]
    assert "12 persons stand in train and in test: results on test flatter" in train.notes
    alike = write_rows(tmp_path, [f"p{n // 4}" + " " * max(0, n % 4 - 1) for n in range(48)], split=splits)
    notes = load_image_arrays(ImageDataArguments(alike))["train"].notes
    assert any("by ids that differ by blanks" in note and "test" in note for note in notes)
    with pytest.raises(ValueError, match="--group_column sight: not every split has such a column; they share"):
        load_image_dataset(ImageDataArguments(spec, group_column="sight"))


def test_parts_of_train_are_whole_persons(tmp_path: Path) -> None:
    spec = write_rows(tmp_path, [f"p{n // 4}" for n in range(120)])
    whole = load_image_arrays(ImageDataArguments(spec))["train"]
    part = load_image_arrays(ImageDataArguments(spec, train_fraction=0.3))["train"]
    assert whole.persons is not None and part.persons is not None
    counts = {int(person): int((part.persons == person).sum()) for person in part.persons}
    assert set(counts.values()) == {4} and np.bincount(part.labels).tolist() == [12, 12]
    few = load_image_arrays(ImageDataArguments(spec, few_shot=6))["train"]
    assert few.persons is not None and np.bincount(few.labels).tolist() == [6, 6] and len(set(few.persons)) == 4


def test_texts_keep_persons_and_equal_texts_together(tmp_path: Path) -> None:
    rows = [{"text": f"post {n % 60}", "label": "ab"[n // 4 % 2], "user_id": f"u{n // 4}"} for n in range(120)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = load_text_arrays(TextDataArguments(dataset=str(tmp_path / "t.jsonl")))
    for kind in ([set(s.texts) for s in splits.values()], [set(s.persons) for s in splits.values()]):  # type: ignore[arg-type]
        assert sum(map(len, kind)) == len(set.union(*kind))


def test_persons_are_resampled_whole_and_no_class_is_lost() -> None:
    rng = np.random.default_rng(0)
    persons = np.repeat(np.arange(12), 5)
    labels = np.where(rng.random(60) < 0.1, 2, persons % 2)
    drawn = np.concatenate(list(resampled_rows(labels, 3, 300, np.random.default_rng(1), persons)))
    assert drawn.shape == (301, 60) and (drawn[0] == 1).all()
    by_person = drawn.reshape(301, 12, 5)
    assert (by_person == by_person[:, :, :1]).all()
    assert all((drawn[:, labels == c].sum(1) > 0).all() for c in range(3))
    share = (drawn * (labels == 0)).sum(1) / drawn.sum(1)
    alone = np.concatenate(list(resampled_rows(np.zeros(60, dtype=int), 1, 300, np.random.default_rng(1))))
    assert share.std() > 0 and ((alone == alone[:, :1]).all(1)).sum() == 1
