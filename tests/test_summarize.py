"""`clinsynth summarize`: the counts are right, and planted duplicates are found where they lie."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image, ImageEnhance

from clinsynth.arguments import parse
from clinsynth.data.arguments import TextDataArguments
from clinsynth.data.duplicates import near_pairs
from clinsynth.data.labels import age_band
from clinsynth.data.looks import look_at
from clinsynth.data.phantom_fundus import draw_fundus
from clinsynth.data.summary import smallest_difference, summarize, to_table
from clinsynth.data.texts import open_text_dataset
from clinsynth.scripts.summarize import SummarizeArguments, main


def fundus(seed: int) -> Image.Image:
    return draw_fundus(seed % 5, 64, np.random.default_rng(seed))[0]


def recompressed(image: Image.Image, quality: int = 75) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).convert(image.mode)


def split_of(images: list[Image.Image], ages: list[float | None]) -> Dataset:
    features = Features(
        image=ImageFeature(), label=ClassLabel(names=["a", "b"]), age=Value("float32"), sex=Value("string")
    )
    labels = [n % 2 for n in range(len(images))]
    columns = {"image": images, "label": labels, "age": ages, "sex": ["f"] * len(images)}
    return Dataset.from_dict(columns, features=features)


@pytest.fixture(scope="module")
def summary() -> dict:
    train = [fundus(seed) for seed in range(30)]
    brighter = ImageEnhance.Brightness(train[4]).enhance(1.1)
    test = [train[3], recompressed(train[7]), brighter, fundus(100), fundus(101)]
    splits = {"train": split_of(train, [25.0] * 29 + [None]), "test": split_of(test, [0, 17, 18, 79, 80])}
    return summarize(splits, {name: look_at(split, None)[0] for name, split in splits.items()})


def test_counts_sizes_and_subgroups(summary):
    train, test = summary["splits"]["train"], summary["splits"]["test"]
    assert train["images"] == 30 and test["classes"] == {"a": 3, "b": 2}
    assert train["sizes"] == {"64x64": 30} and train["modes"] == {"RGB": 30}
    assert train["subgroups"] == {"age": {"18-39": 29, "(missing)": 1}, "sex": {"f": 30}}
    assert test["subgroups"]["age"] == {"0-17": 2, "18-39": 1, "60-79": 1, "80+": 1}


def test_planted_duplicates_are_found_and_no_others(summary):
    exact, near = summary["duplicates"]["exact"], summary["duplicates"]["near"]
    assert exact["rows"] == [["train", 3, "test", 0]]
    assert sorted(near["rows"]) == [["train", 4, "test", 2], ["train", 7, "test", 1]]
    assert exact["by splits"] == {"train - test": 1} and exact["of different labels"] == 1


def test_table_says_it_all(summary):
    text = to_table(summary)
    assert "pairs of the same pixels: 1 (train - test: 1; of different labels: 1)" in text
    assert "near duplicates (likeness >= 0.97): 2" in text
    assert any(line.split() == ["all", "30", "5"] for line in text.splitlines())


def test_two_pictures_alone_are_compared_too():
    thumbnails = np.random.default_rng(0).normal(0, 1, (3, 28, 28)).astype(np.float32)
    thumbnails[1] = 1.2 * thumbnails[0] + 5
    assert [(i, j) for i, j, _ in near_pairs(thumbnails[:2])] == [(0, 1)]
    assert [(i, j) for i, j, _ in near_pairs(thumbnails)] == [(0, 1)]
    assert not list(near_pairs(thumbnails[1:]))


def test_pictures_without_structure_match_nothing():
    assert list(near_pairs(np.full((4, 28, 28), 7, dtype=np.float32))) == []


def test_pairs_across_blocks_are_found():
    thumbnails = np.random.default_rng(0).normal(0, 1, (2100, 28, 28)).astype(np.float32)
    thumbnails[2099] = thumbnails[3]
    assert [(i, j) for i, j, _ in near_pairs(thumbnails)] == [(3, 2099)]


def test_age_bands():
    assert [age_band(age) for age in (0, 17.5, 18, 59, 60, 80, 101)] == [
        "0-17",
        "0-17",
        "18-39",
        "40-59",
        "60-79",
        "80+",
        "80+",
    ]


def test_command_prints_and_writes(tmp_path, capsys):
    spec = "phantom-fundus?size=28&train=40&validation=5&test=5"
    main(parse(SummarizeArguments, ["--dataset", spec, "--output_dir", str(tmp_path / "out")]))
    printed = capsys.readouterr().out
    assert "grade 4" in printed and "near duplicates" in printed
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert written["dataset"] == spec and sum(written["splits"]["train"]["classes"].values()) == 40
    assert written["splits"]["train"]["subgroups"]["haemorrhages"]["lowest"] == 0


def test_a_set_of_texts_is_summarised_too(tmp_path, capsys):
    rows = [
        {"text": f"{('calm', 'sad')[n % 2]} post {n % 58}", "label": "ab"[n % 2], "user_id": n // 4, "note": "x"}
        for n in range(60)
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    main(parse(SummarizeArguments, ["--dataset", str(tmp_path / "t.jsonl"), "--output_dir", str(tmp_path / "out")]))
    found = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert sum(split["texts"] for split in found["splits"].values()) == 60
    assert sum(found["persons"].values()) == 15 and found["columns left out"] == ["note"]
    assert found["duplicates"]["exact"]["pairs"] == 2 and found["smallest difference"]["baseline"] > 0.9
    printed = capsys.readouterr().out
    assert "smallest class: " in printed and "persons: train" in printed and "pairs of the same words: 2" in printed


def test_power_shrinks_with_the_test_split(tmp_path):
    texts = TextDataArguments(dataset="phantom-posts")
    loaded = open_text_dataset(texts)
    part = replace(loaded, splits=DatasetDict({**loaded.splits, "test": loaded.splits["test"].select(range(44))}))
    whole, quarter = (smallest_difference(one)["macro_f1"] for one in (loaded, part))
    assert 0.1 < whole < quarter < 1


def test_real_copies_are_found_among_real_pictures(shared_data):
    """RetinaMNIST: recompressed and brightened copies of 100 pictures are each found, beside few pairs of others."""
    with np.load(shared_data / "retinamnist.npz") as arrays:
        pictures = [Image.fromarray(pixels) for pixels in arrays["train_images"]]
    copies = [recompressed(p) for p in pictures[:50]] + [
        ImageEnhance.Brightness(p).enhance(0.9) for p in pictures[50:100]
    ]
    grey = np.stack([np.asarray(p.convert("L"), dtype=np.float32) for p in pictures + copies])
    pairs = {(i, j) for i, j, _ in near_pairs(grey)}
    assert {(n, 1080 + n) for n in range(100)} <= pairs
    assert sum(j < 1080 for _, j in pairs) < 40
