"""Layouts of public sets, as their authors publish them, made small: read right at the first try."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clinsynth.data.arguments import ImageDataArguments
from clinsynth.data.images import open_image_dataset


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(abs(hash(path.name)) % 2**32).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def table(path: Path, names: str, rows: list[tuple[Any, ...]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names.split(","), *rows])


def aptos(root: Path) -> str:
    """APTOS 2019: id_code without an ending, grades, and a test table without them."""
    ids = [f"{number:012x}" for number in range(40)]
    for number, own in enumerate(ids):
        draw(root / ("train_images" if number < 30 else "test_images") / f"{own}.png")
    table(root / "train.csv", "id_code,diagnosis", [(own, n % 5) for n, own in enumerate(ids[:30])])
    table(root / "test.csv", "id_code", [(own,) for own in ids[30:]])
    table(root / "sample_submission.csv", "id_code,diagnosis", [(own, 0) for own in ids[30:]])
    return str(root)


def pad_ufes(root: Path) -> str:
    """PAD-UFES-20: images in three folders, a table with patients, lesions and answers."""
    rows = []
    for n in range(36):
        name = f"PAT_{n // 3}_{n // 3 * 7}_{n * 31 % 997}.png"
        draw(root / f"imgs_part_{n % 3 + 1}" / name)
        rows.append(
            (f"PAT_{n // 3}", n // 3 * 7, "True", 55 + n // 3, "FACE", ("BCC", "NEV")[n // 3 % 2], "False", name)
        )
    table(root / "metadata.csv", "patient_id,lesion_id,smoke,age,region,diagnostic,biopsed,img_id", rows)
    return str(root)


def chest(root: Path) -> str:
    """NIH ChestX-ray14: several findings between bars, images in numbered folders."""
    rows = []
    for n in range(40):
        name = f"{n // 2:08d}_{n % 2:03d}.png"
        draw(root / f"images_{n % 4 + 1:03d}" / "images" / name)
        found = ("No Finding", "Cardiomegaly", "Cardiomegaly|Effusion", "Effusion")[n // 2 % 4]
        rows.append((name, found, n % 2, n // 2 + 1, 57, "M", "PA"))
    table(
        root / "Data_Entry_2017.csv",
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position",
        rows,
    )
    return str(root)


def isic_2019(root: Path) -> str:
    """ISIC 2019: a column of 0.0 and 1.0 for each diagnosis, and an unknown that none has."""
    rows = []
    for n in range(30):
        draw(root / "ISIC_2019_Training_Input" / f"ISIC_{n:07d}.jpg")
        rows.append((f"ISIC_{n:07d}", *(float(n % 3 == column) for column in range(3)), 0.0))
    table(root / "ISIC_2019_Training_GroundTruth.csv", "image,MEL,NV,BCC,UNK", rows)
    return str(root)


def chexpert(root: Path) -> str:
    """CheXpert: a table a split, paths that begin with the set's own name, views below studies below patients."""
    for split, patients in (("train", range(30)), ("valid", range(30, 40))):
        rows = []
        for n in patients:
            place = f"{split}/patient{n:05d}/study1/view1_frontal.jpg"
            draw(root / place)
            rows.append((f"CheXpert-v1.0-small/{place}", "Female", 60, "Frontal", "AP", 1.0, float(n % 2)))
        table(root / f"{split}.csv", "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema", rows)
    return str(root)


def rsna(root: Path) -> str:
    """RSNA pneumonia: one row a box, so that an image stands in several."""
    rows = []
    for n in range(30):
        draw(root / "stage_2_train_images" / f"{n:08d}-a.png")
        rows += [(f"{n:08d}-a", 10 * box, 5, n % 2) for box in range(1 + n % 2)]
    table(root / "stage_2_train_labels.csv", "patientId,x,y,Target", rows)
    return str(root / "stage_2_train_labels.csv")


def kvasir(root: Path) -> str:
    """Kvasir: a folder a finding below a folder of its own, and names with hyphens."""
    for finding in ("dyed-lifted-polyps", "normal-cecum", "ulcerative-colitis"):
        for n in range(10):
            draw(root / "kvasir-dataset-v2" / finding / f"{finding}-{n}.jpg")
    return str(root / "kvasir-dataset-v2")


def oct_2017(root: Path) -> str:
    """Kermany's OCT: splits and classes by folders, patients in the files' names."""
    for split, count in (("train", 10), ("val", 2), ("test", 4)):
        for kind in ("CNV", "DME", "NORMAL"):
            for n in range(count):
                draw(root / split / kind / f"{kind}-{n * 101}-{n}.jpeg")
    return str(root)


def covid_chestxray(root: Path) -> str:
    """github.com/ieee8023/covid-chestxray-dataset, by its listing and SCHEMA.md: images and masks of some in folders,
    a table with patients, findings and notes."""
    rows = []
    for n in range(36):
        name = f"auntminnie-{n // 2}-2020_01_28_nejm_day{n % 2}.jpeg"
        draw(root / "images" / name)
        draw(root / "annotations" / "lungVAE-masks" / f"auntminnie-{n // 2}-2020_01_28_nejm_day{n % 2}_mask.png")
        found = ("Pneumonia/Viral/COVID-19", "No Finding")[n // 2 % 2]
        view, where, notes = ("PA", "AP Supine")[n % 2], "a hospital, a town", f"made-up note {n} on the course"
        rows.append((n // 2, n % 2, "M", 40 + n // 2, found, "Y", view, "X-ray", where, name, "", notes))
    names = "patientid,offset,sex,age,finding,survival,view,modality,location,filename,license,clinical notes"
    table(root / "metadata.csv", names, rows)
    (root / "SCHEMA.md").write_text("metadata")
    return str(root)


def covid_ultrasound(root: Path) -> str:
    """github.com/jannisborn/covid19_ultrasound, data/pocus by its listing: frames of videos by class, in names with
    blanks, signs and a second ending, beside the videos themselves."""
    for folder, start in (
        ("covid", "Cov-Atlas-+({}).gif"),
        ("pneumonia", "Pneu-grep {}.mp4"),
        ("regular", "Reg-{}.mp4"),
    ):
        for n in range(12):
            draw(root / "cleaned_data_images" / folder / f"{start.format(n // 3)}_frame{n % 3 * 5}.jpg")
        (root / "cleaned_data_images" / folder / "raw.mp4").write_bytes(b"video")
    return str(root)


@pytest.mark.parametrize(
    ("make", "flags", "classes", "rows", "persons"),
    [
        (aptos, {}, ["0", "1", "2", "3", "4"], 30, None),
        (pad_ufes, {}, ["BCC", "NEV"], 36, 12),
        (chest, {"label_column": "Cardiomegaly"}, ["no Cardiomegaly", "Cardiomegaly"], 40, 20),
        (isic_2019, {}, ["BCC", "MEL", "NV"], 30, None),
        (chexpert, {"label_column": "Edema"}, ["0", "1"], 40, None),
        (rsna, {}, ["0", "1"], 30, 30),
        (kvasir, {}, ["dyed-lifted-polyps", "normal-cecum", "ulcerative-colitis"], 30, None),
        (oct_2017, {}, ["CNV", "DME", "NORMAL"], 48, None),
        (covid_chestxray, {}, ["No Finding", "Pneumonia/Viral/COVID-19"], 36, 18),
        (covid_ultrasound, {}, ["covid", "pneumonia", "regular"], 36, None),
    ],
)
def test_a_published_set_is_read_at_the_first_try(
    tmp_path: Path, make: Any, flags: dict[str, Any], classes: list[str], rows: int, persons: int | None
) -> None:
    loaded = open_image_dataset(ImageDataArguments(make(tmp_path), min_class_size=1, **flags))
    assert loaded.splits["train"].features["label"].names == classes
    assert sum(map(len, loaded.splits.values())) == rows
    whose = [split["person"][:] for split in loaded.splits.values() if "person" in split.column_names]
    assert len({person for own in whose for person in own}) == (persons or 0)
    assert sum(Counter(map(len, map(set, whose))).values()) in (0, 3)
    assert len({person for own in whose for person in own}) == sum(len(set(own)) for own in whose)
