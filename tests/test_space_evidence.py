"""The Evidence tab: which sets are compared, what becomes of the others, and the tab behind a real server."""

import csv
import io
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

gr = pytest.importorskip("gradio", reason="needs gradio: pip install clinsynth[space]")
sys.path.insert(0, str(Path(__file__).parent.parent / "spaces" / "studio"))

import evidence_tab  # noqa: E402
from evidence_tab import evaluate, follow, prepare  # noqa: E402
from gradio.utils import get_upload_folder  # noqa: E402
from gradio_client import Client, handle_file  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402
from sets import LabelledSet  # noqa: E402
from text_posts import LABELS, save_tiny_encoder, write_posts  # noqa: E402


def image(seed: int, level: int, width: int = 28, height: int | None = None) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 80, (height or width, width))
    buffer = io.BytesIO()
    Image.fromarray((noise + level).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def a_set(name: str, seed: int, dark: int, bright: int, width: int = 28) -> LabelledSet:
    labels = ["dark"] * dark + ["bright"] * bright
    levels = [20 if label == "dark" else 150 for label in labels]
    return LabelledSet(name, [image(1000 * seed + i, level, width) for i, level in enumerate(levels)], labels)


def with_last(chosen: LabelledSet, content: bytes, label: str = "dark") -> LabelledSet:
    return LabelledSet(chosen.name, [*chosen.contents[:-1], content], [*chosen.labels[:-1], label])


def test_both_sets_are_written_as_the_evaluation_takes_them(tmp_path: Path) -> None:
    prepare(tmp_path, a_set("real", 1, 40, 20), a_set("made", 2, 10, 10, width=56), 32, 3)
    with np.load(tmp_path / "real.npz") as arrays:
        assert arrays["train_images"].shape == (60, 32, 32)
        assert arrays["train_labels"].ravel().tolist() == [1] * 40 + [0] * 20  # bright, dark
    shard = pq.ParquetFile(tmp_path / "synthetic" / "data" / "train-00000-of-00001.parquet")
    assert shard.metadata.num_rows == 20
    settings = yaml.safe_load((tmp_path / "evaluate.yaml").read_text())
    assert (settings["label_names"], settings["seed"]) == (["bright", "dark"], 3)
    assert not any(str(tmp_path) in str(value) for value in settings.values())


REAL, MADE = a_set("the real set", 1, 40, 20), a_set("the synthetic set", 2, 10, 10)


@pytest.mark.parametrize(
    ("real", "made", "told"),
    [
        (a_set("the real set", 1, 60, 0), MADE, "the real set has one class, 'dark'; give images of at least two"),
        (a_set("the real set", 1, 40, 10), MADE, "the real set has 50 images, fewer than 60; give more"),
        (REAL, a_set("the synthetic set", 1, 9, 10), "the synthetic set has 19 images, fewer than 20"),
        (a_set("the real set", 1, 60, 4), MADE, "has 4 images of class 'bright', fewer than 5; add some"),
        (REAL, with_last(MADE, image(1, 1), "grey"), r"has classes that the real set has not: grey \(real: bright"),
        (
            REAL,
            a_set("made", 2, 10, 10, width=32),
            r"real: 60 of 28x28; synthetic: 20 of 32x32\); choose a resolution",
        ),
        (REAL, with_last(MADE, image(1, 1, 28, 40)), "image 20 is 28x40 pixels, which is not square; crop"),
        (REAL, with_last(MADE, image(1, 1)[:-300]), "image 20, holds a damaged image"),
    ],
)
def test_sets_that_cannot_be_compared(tmp_path: Path, real: LabelledSet, made: LabelledSet, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        prepare(tmp_path, real, made, None, 0)


def test_images_are_brought_to_the_smaller_side_unless_told_otherwise() -> None:
    large = a_set("made", 2, 1, 1, width=56)
    assert [evidence_tab.side_of(chosen, MADE, large) for chosen in evidence_tab.RESOLUTIONS[:3]] == [28, None, 28]
    assert evidence_tab.side_of(evidence_tab.SMALLEST, MADE, REAL) is None
    with pytest.raises(ValueError, match="the resolution must be one of the smaller of both, as they are, 28"):
        evidence_tab.side_of("29", MADE)


def test_a_comparison_is_stopped_when_its_time_is_over(tmp_path: Path) -> None:
    prepare(tmp_path, REAL, MADE, None, 0)
    with pytest.raises(ValueError, match="took longer than 0 s; give fewer samples or smaller images"):
        evaluate(tmp_path, "image", lambda share, stage: None, seconds=0.3)


def test_what_the_evaluation_refuses_is_handed_on(tmp_path: Path) -> None:
    (tmp_path / "evaluate.yaml").write_text("bootstrap: -1\n")
    with pytest.raises(ValueError, match=r"^--bootstrap must be >= 0, got -1$"):
        evaluate(tmp_path, "image", lambda share, stage: None)


def test_states_of_a_progress_bar_are_lines() -> None:
    stream = io.TextIOWrapper(io.BytesIO("a:   0%|  |\ra: 100%|██|\n\nlast".encode()), encoding="utf-8")
    told: list[tuple[float, str]] = []
    assert follow(stream, lambda share, stage: told.append((share, stage))) == "last"
    assert told == [(0.0, "a"), (1.0, "a")]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The tab in Blocks of its own behind a real server."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("evidence")
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        patch.setenv("OMP_NUM_THREADS", "1")
        with gr.Blocks() as app, gr.Tab("Evidence"):
            evidence_tab.build()
        app.queue().launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
        yield Client(app.local_url, verbose=False, ssl_verify=False, download_files=str(folder / "downloads"))
        app.close()


def write_zip(path: Path, chosen: LabelledSet) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number, (content, label) in enumerate(zip(chosen.contents, chosen.labels, strict=True)):
            archive.writestr(f"{label}/{number}.png", content)
    return path


def write_parquet(path: Path, chosen: LabelledSet) -> Path:
    features = Features(image=ImageFeature(), label=ClassLabel(names=["dark", "bright"]))
    cells = [{"bytes": content, "path": None} for content in chosen.contents]
    labels = [features["label"].str2int(label) for label in chosen.labels]
    Dataset.from_dict({"image": cells, "label": labels}, features=features).to_parquet(path)
    return path


def texts(name: str, count: int, seed: int) -> LabelledSet:
    made = write_posts(count, seed, "x")
    return LabelledSet(name, made.texts, [LABELS[label] for label in made.labels])


TEXTS, MADE_TEXTS = texts("the real set", 90, 1), texts("the synthetic set", 30, 2)


def relabelled(chosen: LabelledSet, **labels: str) -> LabelledSet:
    return LabelledSet(chosen.name, chosen.contents, [labels.get(label, label) for label in chosen.labels])


@pytest.mark.parametrize(
    ("real", "made", "told"),
    [
        (texts("the real set", 79, 1), MADE_TEXTS, "the real set has 79 texts, fewer than 80; give more"),
        (TEXTS, texts("the synthetic set", 19, 1), "the synthetic set has 19 texts, fewer than 20; give more"),
        (
            relabelled(TEXTS, severe="mild"),
            MADE_TEXTS,
            "the real set has one class, 'mild'; give texts of at",
        ),
        (TEXTS, relabelled(MADE_TEXTS, mild="well"), r"classes that the real set has not: well \(real: mild, severe"),
        (
            TEXTS,
            LabelledSet("made", ["a" * 20_001, *MADE_TEXTS.contents[1:]], MADE_TEXTS.labels),
            "made: the text of row 1 has 20001 characters, more than 20000; cut it",
        ),
        (TEXTS, MADE, "the real set holds texts and the synthetic set images; give two of a kind"),
    ],
)
def test_texts_that_cannot_be_compared(tmp_path: Path, real: LabelledSet, made: LabelledSet, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        prepare(tmp_path, real, made, None, 0)
    assert not list(tmp_path.iterdir())


def test_two_uploaded_sets_of_texts_through_the_server(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = save_tiny_encoder(tmp_path / "tiny", [*TEXTS.contents, *MADE_TEXTS.contents])
    monkeypatch.setenv("STUDIO_TEXT_ENCODER", str(encoder))
    real, made = tmp_path / "real.csv", tmp_path / "made.jsonl"
    with open(real, "w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(TEXTS.contents, TEXTS.labels, strict=True)])
    rows = zip(MADE_TEXTS.contents, MADE_TEXTS.labels, strict=True)
    made.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    summary, (report, file) = ask(client, real, made)
    evidence = json.loads(Path(file).read_text())
    assert evidence["data"]["counts"]["synthetic"] == {"mild": 20, "severe": 10}
    rows = {row["metric"]: row for row in summary["measurements"]}
    assert {"mmd_squared", "coverage", "distinct_2", "mtld", "near_duplicates", "exact_copies"} <= set(rows)
    assert rows["mmd_squared"]["floor_held_out"] is not None and rows["mmd_squared"]["interval"] is not None
    assert summary["extractor"].startswith("tiny (mean of tokens")
    page = Path(report).read_text()
    assert "<svg" in page and str(tmp_path) not in page
    assert not any(text in page for text in TEXTS.contents)
    assert not [path for path in Path(get_upload_folder()).rglob("*") if path.suffix in (".csv", ".jsonl")]
    shown = evidence_tab.show_report(summary, [report, file])
    assert {row[0] for row in shown[2]} >= {"MMD² of embeddings", "distinct-2", "near-duplicates"}
    assert "images at" not in shown[1] and "<iframe" in shown[3]


def ask(client: Client, real: Path, made: Path) -> tuple[dict, list[str]]:
    files = [handle_file(str(path)) for path in (real, made)]
    return client.predict(None, files[0], None, files[1], "as they are", 0, api_name="/evidence")


def test_two_uploaded_sets_through_the_server(client: Client, tmp_path: Path) -> None:
    real, made = write_zip(tmp_path / "real.zip", REAL), write_parquet(tmp_path / "made.parquet", MADE)
    summary, (report, file) = ask(client, real, made)
    evidence = json.loads(Path(file).read_text())
    assert evidence["data"]["counts"]["synthetic"] == {"bright": 10, "dark": 10}
    rows = {row["metric"]: row for row in summary["measurements"]}
    assert {"frechet", "kid", "precision", "coverage"} <= set(rows)
    assert rows["frechet"]["n_synthetic"] == 15  # of 10 and 10, in the real mix of two to one
    assert rows["frechet"]["floor_held_out"] is not None
    assert [tile["title"] for tile in summary["findings"]][:2] == ["Looks like real?", "Shows its class?"]
    page = Path(report).read_text()
    assert "<svg" in page
    assert str(tmp_path) not in page
    assert not [path for path in Path(get_upload_folder()).rglob("*") if path.suffix in (".zip", ".parquet")]
    shown = evidence_tab.show_report(summary, [report, file])
    assert "**Copies anybody? " in shown[1]
    assert {row[0] for row in shown[2]} >= {"Fréchet distance", "KID", "near-duplicates"}
    assert "<iframe" in shown[3]
    assert "<svg" not in shown[3]  # escaped within the frame's attribute


def test_errors_are_messages(client: Client, tmp_path: Path) -> None:
    made = write_parquet(tmp_path / "made.parquet", MADE)
    (tmp_path / "real.zip").write_bytes(b"PK no zip")
    with pytest.raises(AppError, match=r"the real set: real\.zip is a damaged \.zip"):
        ask(client, tmp_path / "real.zip", made)
    with pytest.raises(AppError, match="the real set has one class, 'dark'"):
        ask(client, write_zip(tmp_path / "one.zip", a_set("", 1, 60, 0)), made)
    assert not [path for path in Path(get_upload_folder()).rglob("*") if path.suffix in (".zip", ".parquet")]
