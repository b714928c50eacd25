"""What the commands write at tiny size, held against files in golden/: keys, words, names and order, not numbers.

They show that a change of the code changes nothing but what it is meant to. After a change that is meant, write them
anew and read the diff:

    CLINSYNTH_WRITE_GOLDEN=1 python -m pytest tests/test_golden.py
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import faults_of, needs_chromium, open_browser
from golden_files import Word, check, file_tree, normal_card, normal_json, normal_page
from golden_runs import FLAGS, PUSHES, make_images, make_texts, only, pushes, read
from helpers import run_warm
from packs import check_traced, make_pack


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`study`, `preference` and `judged`, of eyes that are noise."""
    folder = tmp_path_factory.mktemp("images")
    make_images(folder, run_warm)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`study`, of posts of four words."""
    for name in ("peft", "trl", "datasketch"):
        pytest.importorskip(name, reason="needs the packages of `pip install clinsynth[text]`")
    folder = tmp_path_factory.mktemp("texts")
    make_texts(folder, run_warm)
    return folder


@pytest.fixture(scope="module")
def hub(images: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A loopback Hub on which models, data sets, a metric and a Space are."""
    pytest.importorskip("fastapi", reason="needs FastAPI, which `pip install clinsynth[space]` brings")
    from loopback_hub.hub import running_hub

    with running_hub(tmp_path_factory.mktemp("hub")) as hub:
        run_warm("-c", PUSHES, pushes(images, texts), **hub.environment(), HF_HUB_OFFLINE="0")
        yield hub
    assert hub.errors == []


def name_equal(values: dict[str, Any], others: dict[str, Any], place: str) -> dict[str, Any]:
    """The values without those that `others` holds too."""
    return {key: Word(f"as {place}") if value == others.get(key) else value for key, value in values.items()}


def report_of(folder: Path) -> str:
    """report.json of a study without what other files hold too."""
    report = read(folder / "study/report.json")
    for name, generator in report["generators"].items():
        path = f"study/evaluate-{name}/evidence.json"
        generator["evidence"] = name_equal(generator["evidence"], read(folder / path), f"in {path}")
    results = {name: read(folder / f"study/classify-{name}/results.json") for name in report["classifiers"]}
    report["classifiers"] = name_equal(report["classifiers"], results, "in its results.json")
    return normal_json(report, folder)


def metrics_of(folder: Path) -> str:
    """Lines of metrics.jsonl of the trainers but the classifiers'."""
    paths = [path for path in sorted(folder.rglob("metrics.jsonl")) if "arms" not in path.parts]
    lines = {str(path): [json.loads(line) for line in path.read_text().splitlines()] for path in paths}
    return normal_json(lines, folder)


TREES = {"files.txt": file_tree, "metrics.txt": metrics_of, "report.txt": report_of}
MADE = {
    "generation.txt": "study/generate-{}-*/generation.json",
    "evidence.txt": "study/evaluate-{}/evidence.json",
    "evidence.html": "study/evaluate-{}/report.html",
    "results.txt": "study/classify-small/results.json",
    "study.html": "study/report.html",
}
OF_IMAGES = {
    "membership.txt": "study/audit-ddpm/membership.json",
    "judged.txt": "judged/judged.json",
    "preferences.txt": "preference/preferences/pairs/preferences.json",
}
NAMES = [("images", name) for name in (*TREES, *MADE, *OF_IMAGES)] + [("texts", name) for name in (*TREES, *MADE)]


@pytest.mark.parametrize(("kind", "name"), NAMES, ids=map("/".join, NAMES))
def test_runs(kind: str, name: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(kind)
    if name in TREES:
        found = TREES[name](folder)
    else:
        pattern = (MADE | OF_IMAGES)[name].format({"images": "ddpm", "texts": "tuned"}[kind])
        path = only(folder, pattern)
        if path.suffix == ".html":
            found = normal_page(path.read_text(encoding="utf-8"), folder)
        else:
            found = normal_json(read(path), folder, exact=name == "generation.txt")
    check(f"{kind}/{name}", found)


PUBLISHED = [(kind, name) for name in ("eyes", "posts") for kind in ("model", "dataset")]
CARDS = [*PUBLISHED, ("space", "kid"), ("space", "studio")]


@pytest.mark.parametrize(("kind", "name"), CARDS, ids=map("/".join, CARDS))
def test_cards(kind: str, name: str, hub: Any, images: Path) -> None:
    card = hub.repo(kind, f"tester/{name}").read("README.md").decode()
    check(f"cards/{kind}-{name}.md", normal_card(card, images))


@pytest.mark.parametrize(("kind", "name"), PUBLISHED, ids=map("/".join, PUBLISHED))
def test_what_is_published(kind: str, name: str, hub: Any, images: Path, texts: Path) -> None:
    repo, made = hub.repo(kind, f"tester/{name}"), {"eyes": images, "posts": texts}[name]
    files = sorted(set(repo.files()) - {".gitattributes"})
    published = {path: json.loads(repo.read(path)) for path in files if path in ("generation.json", "evidence.json")}
    evidence = read(next(made.glob(f"study/evaluate-{'ddpm' if name == 'eyes' else 'tuned'}/evidence.json")))
    if "evidence.json" in published:
        published["evidence.json"] = name_equal(published["evidence.json"], evidence, "in evidence.json")
    check(f"cards/{kind}-{name}.txt", "\n".join(files) + "\n" + normal_json(published, images))


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_every_number_of_a_studys_pack_stands_where_it_says(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clinsynth.hub.pack.pack.BROWSERS", ())
    pack, roots = make_pack(tmp_path / "out", request.getfixturevalue(kind) / "study")
    assert check_traced(pack, roots) > 300


@needs_chromium
@pytest.mark.parametrize("kind", ["images", "texts"])
def test_every_page_fits_and_can_be_read_by_everybody(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages of evaluations, of a study and of its pack."""
    monkeypatch.setattr("clinsynth.hub.pack.pack.BROWSERS", ())
    study = request.getfixturevalue(kind) / "study"
    make_pack(tmp_path / "out", study)
    pages = [*sorted(study.rglob("report.html")), tmp_path / "out" / "pack.html"]
    with open_browser() as browser:
        assert [fault for page in pages for fault in faults_of(browser, page)] == []
    assert len(pages) >= 3


def test_flags_and_their_defaults() -> None:
    check("flags.txt", run_warm("-c", FLAGS).stdout)
