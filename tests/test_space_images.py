"""The tab Images of the Space, asked by `gradio_client`: images, seeds, distances, provenance, messages, crowds."""

import io
import json
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import LABELS, tiny_pipeline
from PIL import Image

pytest.importorskip("gradio", reason="needs gradio; install it with `pip install clinsynth[space]`")

from gradio_client.exceptions import AppError
from space_server import SPACE, Studio, tiny_studio

from clinsynth.synthesis.provenance import SOURCE_TYPE, read_mark

QUICK = {"steps": 2, "count": 2}


@pytest.fixture(scope="module")
def studio() -> Iterator[Studio]:
    return tiny_studio()


@pytest.fixture(scope="module")
def client(studio: Studio) -> Any:
    return studio.client()


def ask(client: Any, **settings: Any) -> Any:
    asked = {"model": "eyes", "label": "mild", **QUICK, **settings}
    return client.predict(**asked, api_name="/images")


def pixels(answer: Any) -> list[np.ndarray]:
    return [np.asarray(Image.open(item["image"])) for item in answer[0]]


def message(client: Any, **settings: Any) -> str:
    with pytest.raises(AppError) as error:
        ask(client, **settings)
    return str(error.value)


def test_images_are_drawn_again_by_their_seeds(client: Any) -> None:
    first = ask(client, count=3, seed=5)
    assert [item["caption"].rpartition(",")[0] for item in first[0]] == [f"mild, seed {seed}" for seed in (5, 6, 7)]
    alone = ask(client, count=1, seed=6)
    difference = pixels(first)[1].astype(int) - pixels(alone)[0]
    assert abs(difference).max() <= 1 and pixels(first)[1].shape == (28, 28)
    other = ask(client, count=1, seed=6, scheduler="euler")
    again = ask(client, count=1, seed=6)
    assert np.array_equal(pixels(again)[0], pixels(alone)[0]) and not np.array_equal(
        pixels(other)[0], pixels(alone)[0]
    )


def test_while_a_set_is_made_no_earlier_one_can_be_taken(client: Any) -> None:
    """Neither by the download nor by the buttons, which take what is behind it."""
    job = client.submit(model="eyes", label="mild", **QUICK, api_name="/images")
    job.result()
    *under_way, (_, file, _) = job.outputs()
    assert under_way and all(part[1]["value"] is None for part in under_way) and Path(file).suffix == ".zip"


def test_the_download_holds_every_image_with_its_provenance(client: Any) -> None:
    images, file, _ = ask(client, label="every class", count=4, seed=9)
    with zipfile.ZipFile(file) as archive:
        settings = json.loads(archive.read("settings.json"))
        files = [archive.read(row["file"]) for row in settings["images"]]
        assert len(archive.namelist()) == 5
    assert [row["label"] for row in settings["images"]] == [LABELS[0], LABELS[1], LABELS[2], LABELS[0]]
    assert settings["synthetic"] is True and settings["num_inference_steps"] == 2 and len(settings["revision"]) == 64
    for seed, content, item in zip(range(9, 13), files, images, strict=True):
        says = read_mark(content)
        assert says == read_mark(Path(item["image"]).read_bytes())
        assert says is not None and says["seed"] == seed and says["generator"] == "eyes"
        assert says["digital_source_type"] == SOURCE_TYPE
        assert Image.open(io.BytesIO(content)).size == (28, 28)


def test_what_is_made_here_is_shown_on_arrival_taken_back_and_flagged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SPACE))
    monkeypatch.setenv("STUDIO_SCORES", str(tmp_path / "scores"))
    import gradio as gr
    from drawing import draw_example
    from drawn_sets import DRAWN, checklist_for, default_sets, read_any
    from flags import flag_image
    from images_tab import arrive
    from models import list_models, trained_on
    from sets import read_upload

    tiny_pipeline().save_pretrained(tmp_path / "skin")
    models: Any = list_models(str(tmp_path / "skin"), None, 1)
    draw_example(models)
    first = arrive(models)(SimpleNamespace(query_params={}))
    assert len(first) == 7 + 7 and [caption for _, caption in first[8]][:2] == ["healthy, seed 0", "mild, seed 1"]
    asked = {"label": "severe", "seed": "9", "steps": "many", "scheduler": "none", "tab": "review"}
    fields = arrive(models)(SimpleNamespace(query_params=asked))
    assert fields[1].value == "severe" and fields[6] == 9 and fields[4] == fields[5] == gr.skip()
    path = Path(models.example.present()[1])
    taken = read_upload(path, "what was made")
    assert taken.labels == [row["label"] for row in models.example.rows] and taken.contents == models.example.files
    assert checklist_for(str(path)).value.startswith("none")
    assert "skin" not in trained_on(models.images["skin"]) and default_sets(models)[1] == "phantom eyes, seed 0"
    drawn = read_any(models, f"{DRAWN}skin", None, "the synthetic set")
    assert len(drawn.labels) == 60 and set(drawn.labels) == set(LABELS.values()) and models.drawn["skin"] is drawn
    assert "severe, seed 2" in flag_image(str(path), 3, "other")
    with pytest.raises(gr.Error, match="Which image must be a number from 1 to 8, got 9"):
        flag_image(str(path), 9, "other")
    with zipfile.ZipFile(tmp_path / "other.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("settings.json", '{"images": [' + " " * 9_000_000 + "{}]}")
    with pytest.raises(gr.Error, match="what is flagged is no download of this tab"):
        flag_image(str(tmp_path / "other.zip"), 1, "other")
    (line,) = (tmp_path / "scores" / "flags.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert (record["reason"], record["label"], record["seed"], record["model"]) == ("other", "severe", 2, "skin")


def test_who_draws_at_once_gets_what_he_gets_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tabs and the example share a pipeline, whose scheduler is that of its last user."""
    monkeypatch.syspath_prepend(str(SPACE))
    from drawing import ImageRequest, draw_images
    from models import ImageModel

    tiny_pipeline().save_pretrained(tmp_path / "skin")
    model = ImageModel("skin", str(tmp_path / "skin"), list(LABELS.values()))
    settings = ((2, "ddim"), (12, "dpmsolver++"), (4, "euler"))
    asked = [ImageRequest("skin", "every class", 6, 1.0, steps, scheduler, 7) for steps, scheduler in settings]

    def draw(request: ImageRequest) -> np.ndarray:
        return np.concatenate(list(draw_images(model, request)))

    alone = [draw(request) for request in asked]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(draw, asked * 2))
    assert all(np.abs(one.astype(int) - other).max() <= 1 for one, other in zip(alone * 2, together, strict=True))


def test_distances_where_the_training_images_are_known(client: Any) -> None:
    images, file, note = ask(client)
    rows = json.loads(zipfile.ZipFile(file).read("settings.json"))["images"]
    for row, item in zip(rows, images, strict=True):
        assert 0 < row["nearest_training_distance"] < 2
        assert item["caption"].endswith(f"distance {row['nearest_training_distance']:.2f}")
    assert "nearest training image" in note
    images, _, note = ask(client, model="skin")
    assert "are not here" in note and "distance" not in images[0]["caption"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"count": 65}, "Number of images must be a number from 1 to 64, got 65"),
        ({"count": 1.5}, "Number of images must be a whole number from 1 to 64, got 1.5"),
        ({"steps": "many"}, "Steps must be a number from 1 to 250, got 'many'"),
        ({"guidance": -1}, "Guidance must be a number from 0 to 10, got -1"),
        ({"seed": None}, "Seed must be a number from 0 to"),
        ({"label": "grade 9"}, "Class 'grade 9' is unknown to eyes; give every class or one of healthy, mild, severe"),
        ({"scheduler": "dpm"}, "Scheduler must be one of dpmsolver++, unipc, euler, ddim, ddpm, got 'dpm'"),
        ({"model": "../../etc"}, "Model 'etc' is not one of this Space's: eyes, skin"),
        ({"count": 16, "steps": 250, "guidance": 3}, "3.8 times what one request may cost here; ask for fewer"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_hint(client: Any, settings: dict[str, Any], said: str) -> None:
    assert said in message(client, **settings)


def test_ten_clients_at_once_are_all_answered_and_memory_stays(studio: Studio) -> None:
    clients = [studio.client() for _ in range(10)]

    def draw(number: int) -> int:
        return len(ask(clients[number % 10], seed=number, count=1 + number % 3)[0])

    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(draw, range(10))) == [1 + number % 3 for number in range(10)]
        before = studio.memory()
        for _ in range(3):
            assert list(pool.map(draw, range(10))) == [1 + number % 3 for number in range(10)]
        after = studio.memory()
    print(f"server: {before:.0f} MB after 10 requests, {after:.0f} MB after 40")
    assert after < before + 40


def test_who_does_not_fit_into_the_queue_is_told_so(client: Any) -> None:
    asked = {"model": "eyes", "label": "mild", "count": 4, "steps": 25}
    jobs = [client.submit(**asked, api_name="/images") for _ in range(40)]
    answered, told = 0, []
    for job in jobs:
        try:
            answered += len(job.result(timeout=300)[0]) == 4
        except Exception as error:  # of several types
            told.append(str(error))
    assert answered >= 20 and answered + len(told) == 40
    assert all(told) and sum("Queue is full" in words for words in told) > len(told) / 2, told
