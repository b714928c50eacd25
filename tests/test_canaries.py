"""Canaries in every column but samples, labels and splits of every kind of source: no command lets one out."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from golden_runs import GRADES, only
from helpers import run_warm
from PIL import Image
from text_models import WORDS, save_small_task, save_tiny_model

from clinsynth.withheld import release, withhold, without_withheld

CANARY = "xyzzy"
NAMES = GRADES.split(",")
SIDE_COLUMNS = "notes sex age site skin_type view patient_id patient_name mrn comment Geschlecht laterality".split()
IMAGES = 60
COMMANDS = """
import contextlib, io, json, runpy, sys, traceback
said = io.StringIO()
for words in json.loads(sys.argv[1]):
    sys.argv = ["clinsynth", *words]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            runpy.run_module("clinsynth", run_name="__main__")
        except SystemExit as end:
            if end.code:
                said.write(f"FAILED {words}")
        except BaseException:
            said.write(f"FAILED {words} {traceback.format_exc()}")
sys.stdout.write(said.getvalue())
"""


def canaries(row: int) -> dict[str, str]:
    """A free text, few values, an id: all with the canary."""
    kinds = (f"the {CANARY} number {row} felt worse on Tuesday", f"{CANARY}{row % 3}", f"{CANARY}-{row // 2}")
    own = {column: kinds[number % 3] for number, column in enumerate(SIDE_COLUMNS)}
    return own | {"patient_id": f"{CANARY}-{row // 2}", "patient_name": f"Doe {CANARY} {row // 2}"}


def picture(row: int) -> Image.Image:
    noise = np.random.default_rng(row).integers(0, 60, (28, 28, 3)) + 45 * (row // 2 % 5)
    return Image.fromarray(noise.astype(np.uint8))


def image_rows(folder: Path, key: str = "image", suffix: str = "png") -> list[dict[str, Any]]:
    """Pictures in `folder`, and the rows of a table of them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for row in range(IMAGES):
        picture(row).save(folder / f"{row}.{suffix}")
        rows.append({key: f"{row}.{suffix}", "label": NAMES[row // 2 % 5], **canaries(row)})
    return rows


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    jsonl = [json.dumps(row) for row in rows]
    path.write_text("\n".join(lines if path.suffix == ".csv" else jsonl) + "\n")
    return path


def sources_of_images(folder: Path) -> Iterator[Path]:
    yield write_table(folder / "eyes" / "t.csv", image_rows(folder / "eyes"))
    yield write_table(folder / "eyes" / "t.jsonl", image_rows(folder / "eyes"))
    write_table(folder / "metadata" / "metadata.csv", image_rows(folder / "metadata", "file_name"))
    yield folder / "metadata"
    rows = [{**canaries(row), "image": picture(row), "label": row // 2 % 5} for row in range(IMAGES)]
    plain = {column: Value("string") for column in SIDE_COLUMNS}
    features = Features(image=ImageFeature(), label=ClassLabel(names=NAMES), **plain)
    (folder / "parquet").mkdir()
    columns = {name: [row[name] for row in rows] for name in features}
    Dataset.from_dict(columns, features=features).to_parquet(folder / "parquet" / "train.parquet")
    yield folder / "parquet"


def dicom_folder(folder: Path) -> Path:
    from test_data_dicom import write_dicom

    folder.mkdir()
    rows = []
    for row in range(IMAGES):
        tags = {"PatientID": f"{CANARY}-{row}", "InstitutionName": CANARY, "PatientComments": f"{CANARY} {row} is ill"}
        write_dicom(folder / f"{row}.dcm", np.asarray(picture(row)), f"Doe^{CANARY}", **tags)
        rows.append({"file": f"{row}.dcm", "label": NAMES[row // 2 % 5], **canaries(row)})
    write_table(folder / "labels.csv", rows)
    return folder


def text_rows() -> list[dict[str, Any]]:
    words = ((WORDS[row % 3], "lamps" if row % 2 else "house", WORDS[6 + row % 5], str(row)) for row in range(120))
    return [
        {"text": " ".join(own), "label": ("mild", "severe")[row % 2], **canaries(row)} for row, own in enumerate(words)
    ]


def flags(command: str, **settings: Any) -> list[str]:
    return [*command.split(), *(f"--{name}={value}" for name, value in settings.items())]


def image_commands(folder: Path, table: Path) -> list[list[str]]:
    tiny = {"dataset": table, "width": 8, "train_steps": 2, "train_batch_size": 4}
    model, made, evidence = folder / "ddpm", folder / "made", folder / "evidence"
    recipe: dict[str, Any] = {
        "dataset": str(table),
        "generators": {"ddpm": {"trainer": "ddpm", "train": {"width": 8}}},
    }
    recipe["generate"] = {"per_class": 2}
    (folder / "study.yaml").write_text(json.dumps(recipe))
    limits = dict.fromkeys(("max_exact_copies", "max_near_copies", "max_dcr_share"), 1)
    return [
        flags("train ddpm", **tiny, mixed_precision="no", output_dir=model),
        flags("train gan", **tiny, latent_dim=8, validation_steps=0, output_dir=folder / "gan"),
        flags("generate images", model=model, dataset=table, balance_to=10, num_inference_steps=2, output_dir=made),
        flags(
            "generate images",
            model=model,
            from_images=table,
            per_class=2,
            num_inference_steps=2,
            output_dir=folder / "changed",
        ),
        flags(
            "evaluate images",
            real=table,
            synthetic=made,
            bootstrap=3,
            classifier_seeds=1,
            classifier_epochs=1,
            output_dir=evidence,
        ),
        flags(
            "train image-classifier",
            dataset=table,
            synthetic=made,
            arms="real,composite",
            seeds=1,
            epochs=1,
            output_dir=folder / "arms",
        ),
        flags("audit membership", model=model, dataset=table, noises=1, output_dir=folder / "audit"),
        flags("fit checklist", dataset=table, output_file=folder / "dermatoscopy-measured.yaml"),
        flags("judge", images=table, calibration_pictures=5, least_kappa=-1, output_dir=folder / "judged"),
        ["study", str(folder / "study.yaml"), "--dry_run", f"--output_dir={folder / 'study'}"],
        ["push", "dataset", str(made), f"--evidence={evidence}", "--repo_id=me/x", "--dry_run", *flags("", **limits)],
        ["push", "model", str(model), "--repo_id=me/y", "--dry_run"],
    ]


def text_commands(folder: Path, table: Path) -> list[list[str]]:
    model, made = save_tiny_model(folder / "model"), folder / "texts"
    task = save_small_task(folder / "task.yaml")
    return [
        flags("summarize", dataset=table, output_dir=folder / "summary-texts"),
        flags(
            "train text-lora",
            model=model,
            task=task,
            dataset=table,
            train_steps=1,
            batch_size=2,
            output_dir=folder / "tuned",
        ),
        flags(
            "generate text",
            model=model,
            task=task,
            dataset=table,
            k_shot=2,
            per_class=8,
            near_duplicate=1.0,
            output_dir=made,
        ),
        flags(
            "evaluate text",
            real=table,
            synthetic=made,
            encoder=model,
            bootstrap=2,
            output_dir=folder / "text-evidence",
        ),
        flags(
            "train text-classifier",
            dataset=table,
            synthetic=made,
            model="small-bert",
            arms="real_weighted,composite",
            seeds=1,
            epochs=1,
            output_dir=folder / "text-arms",
        ),
    ]


def found_in(folder: Path) -> list[str]:
    """The files that hold the canary, Parquet read as rows."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content = repr(pq.read_table(path).to_pylist()).encode()
        if CANARY.encode() in content.lower():
            found.append(str(path.relative_to(folder)))
    return found


def run_all(commands: list[list[str]], folder: Path) -> None:
    """Run the commands; neither what they say nor what they write holds the canary."""
    said = run_warm("-c", COMMANDS, json.dumps(commands)).stdout
    assert "FAILED" not in said, said
    assert CANARY not in said.lower(), [line for line in said.splitlines() if CANARY in line.lower()][:5]
    assert found_in(folder) == []


def test_no_source_of_images_lets_a_canary_out(tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="needs the extra clinsynth[dicom]")
    specs = [*sources_of_images(tmp_path / "in"), dicom_folder(tmp_path / "in" / "dicom")]
    out = tmp_path / "out"
    out.mkdir()
    run_all([flags("summarize", dataset=spec, output_dir=out / str(n)) for n, spec in enumerate(specs)], out)
    summaries = [json.loads((out / str(n) / "summary.json").read_text()) for n in range(len(specs))]
    assert all(not split["subgroups"] for summary in summaries for split in summary["splits"].values())
    assert all(sum(split["images"] for split in summary["splits"].values()) == IMAGES for summary in summaries)


def test_no_command_on_images_lets_a_canary_out(tmp_path: Path) -> None:
    table = write_table(tmp_path / "in" / "t.csv", image_rows(tmp_path / "in"))
    out = tmp_path / "out"
    out.mkdir()
    run_all(image_commands(out, table), out)
    assert only(out, "arms/results.json") and only(out, "evidence/evidence.json")


def test_no_command_on_texts_lets_a_canary_out(tmp_path: Path) -> None:
    for name in ("peft", "trl", "datasketch"):
        pytest.importorskip(name, reason="needs the packages of `pip install clinsynth[text]`")
    (tmp_path / "in").mkdir()
    table = write_table(tmp_path / "in" / "t.csv", text_rows())
    out = tmp_path / "out"
    out.mkdir()
    run_all(text_commands(out, table), out)
    assert list(out.rglob("evidence.json")) and list(out.rglob("summary.json"))


def test_what_is_withheld_passes_no_writer() -> None:
    note = f"felt {CANARY} “worse” & <ill> on Tuesday"
    withhold("notes", [note, "short", None])
    for text in (
        note,
        json.dumps({"note": note, "n": 1}),
        f"<p>{note.replace('&', '&amp;').replace('<', '&lt;')}</p>",
    ):
        assert CANARY in text and CANARY not in without_withheld(text.replace(">", "&gt;") if "&lt;" in text else text)
    assert json.loads(without_withheld(json.dumps([note])))[0] == "[withheld: column notes]"
    assert without_withheld("felt better, short") == "felt better, short"
    release([note])
    assert without_withheld(note) == note
