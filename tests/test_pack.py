"""The evidence pack of runs that an earlier version made: what it says, where that stands, and what it refuses.

Packs of whole studies, of images and of texts, are looked at by test_golden.py, which has their runs.
"""

import json
import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority, as_pem, new_key, write_files
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from packs import check_traced, load, make_pack, statements_of
from pyarrow import parquet

from clinsynth.hub.pack.files import Node
from clinsynth.hub.pack.forms import MEASURED, NOT_MEASURED, OPEN, Item, Rule, answer, apply, as_list, fill, read_form
from clinsynth.hub.pack.pack import OF_EACH_SET, OF_THE_RUN, print_page
from clinsynth.hub.pack.runs import read_folders
from clinsynth.hub.rows import inspect_manifest, sign_bytes, verify_bytes, why_not_trusted
from clinsynth.hub.signing import read_identity
from clinsynth.scripts.pack import PackArguments
from clinsynth.synthesis.shard_files import hash_shards

MADE = Path(__file__).parent / "fixtures" / "f467151"
PACKED = ("pack.json", "pack.html", "pack.pdf")
FORMS = ("first_page", *OF_EACH_SET, *OF_THE_RUN)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the runs of earlier versions."""
    return Path(shutil.copytree(MADE, tmp_path_factory.mktemp("pack") / "made"))


@pytest.fixture(autouse=True)
def no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Printing takes seconds; one test looks at it."""
    monkeypatch.setattr("clinsynth.hub.pack.pack.BROWSERS", ())


@pytest.fixture(scope="module")
def images(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("clinsynth.hub.pack.pack.BROWSERS", ())
        folder = tmp_path_factory.mktemp("images") / "out"
        pack, roots = make_pack(folder, made / "eyes", made / "eyes-evidence")
    return {"pack": pack, "roots": roots, "folder": folder}


def said(part: dict[str, Any], item: str) -> list[tuple[str, str]]:
    """Status and text of what a form says about an item."""
    (found,) = [one for one in part["items"] if one["name"].startswith(item)]
    return [(one["status"], one["text"]) for one in found["statements"]]


def form_of(pack: dict[str, Any], name: str, title: str) -> dict[str, Any]:
    (found,) = [form for form in pack["sets"][name]["forms"] if form["title"].startswith(title)]
    return found


def test_every_number_of_images_stands_where_it_says(images: dict[str, Any]) -> None:
    assert check_traced(images["pack"], images["roots"]) > 100


def test_a_changed_number_would_be_noticed(images: dict[str, Any]) -> None:
    pack = json.loads(json.dumps(images["pack"]))
    cited = next(c for one in statements_of(pack) for c in one["values"] if isinstance(c.get("value"), float))
    cited["value"] += 0.01
    with pytest.raises(AssertionError):
        check_traced(pack, images["roots"])


def test_what_was_measured_and_what_was_not(images: dict[str, Any]) -> None:
    first, pack = images["pack"]["first_page"], images["pack"]
    assert said(first, "Reading by clinicians")[0][0] == NOT_MEASURED
    assert said(first, "Membership attack")[0][0] == NOT_MEASURED
    assert said(first, "Arms") == [(NOT_MEASURED, "No classifier was trained in any arm.")]
    evidence = load(MADE / "eyes-evidence/evidence.json")
    card = form_of(pack, "eyes", "ScoreCard")
    assert [item["name"] for item in card["items"]] == [
        "Congruence", "Coverage", "Constraint", "Completeness", "Compliance", "Comprehension", "Consistency",
    ]  # fmt: skip
    assert (MEASURED, evidence["collapse"]["sentence"]) in said(card, "Coverage")
    assert said(card, "Constraint")[0][0] == NOT_MEASURED
    attacks = form_of(pack, "eyes", "Attacks")
    assert said(attacks, "Singling out: a synthetic sample that is a real one")[0][0] == NOT_MEASURED  # as of then
    assert any("near copy by" in text for _, text in said(attacks, "Singling out: a synthetic sample that is nearly"))
    assert said(attacks, "Inference: an attribute")[0] == (NOT_MEASURED, "Not run.")
    generator = form_of(pack, "eyes", "Validation file")
    assert any("train_steps: 2" in text for _, text in said(generator, "Training settings"))
    claim = next(form for form in pack["forms"] if form["title"].startswith("CLAIM"))
    assert [item["name"].split()[0] for item in claim["items"]] == [str(number) for number in range(1, 45)]
    assert said(claim, "44 Funding")[0][0] == OPEN


def test_the_page_shows_all_of_it_and_no_path(images: dict[str, Any], made: Path) -> None:
    page = (images["folder"] / "pack.html").read_text(encoding="utf-8")
    assert str(made) not in page and "claims that a law" in page
    assert page.count("status-open") > 40 and "$.collapse.sentence" in page


def test_the_same_command_writes_the_same_files(images: dict[str, Any], made: Path) -> None:
    before = {path.name: path.read_bytes() for path in images["folder"].iterdir()}
    make_pack(images["folder"], made / "eyes", made / "eyes-evidence")
    assert {path.name: path.read_bytes() for path in images["folder"].iterdir()} == before


def test_croissant_reads_the_rows(images: dict[str, Any], made: Path, tmp_path: Path) -> None:
    mlc = pytest.importorskip("mlcroissant", reason="needs the packages of `pip install clinsynth[pack]`")
    for name, count in (("eyes", 10), ("posts", 12)):
        folder = Path(shutil.copytree(made / name, tmp_path / name))
        if name == "posts":
            make_pack(tmp_path / "out", made / "posts")
        source = images["folder"] if name == "eyes" else tmp_path / "out"
        shutil.copy(source / f"croissant-{name}.json", folder / "croissant.json")
        described = mlc.Dataset(jsonld=folder / "croissant.json")
        assert not described.metadata.ctx.issues.errors
        assert sum(1 for _ in described.records("rows")) == count
        words = load(folder / "croissant.json")
        assert words["rai:hasSyntheticData"] is True and words["prov:wasGeneratedBy"]["@type"] == "prov:Activity"
        assert words["rai:dataLimitations"] and "@base" not in words["@context"]


@pytest.fixture(scope="module")
def signed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A pack of texts whose rows are signed, and the authority's certificate."""
    folder = tmp_path_factory.mktemp("signed")
    write_files(folder, Authority())
    chain, key, anchors = (folder / name for name in ("chain.pem", "key.pem", "authority.pem"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("clinsynth.hub.pack.pack.BROWSERS", ())
        pack, roots = make_pack(folder / "out", made / "posts", identity=read_identity(chain, key))
    return {"pack": pack, "roots": roots, "folder": folder / "out", "anchors": anchors, "chain": chain, "key": key}


def test_every_number_of_texts_stands_where_it_says(signed: dict[str, Any]) -> None:
    assert check_traced(signed["pack"], signed["roots"]) > 20
    marks = form_of(signed["pack"], "posts", "Record of marks")
    assert "12 rows in a manifest" in said(marks, "Mark in each image and row")[0][1]
    assert "Test Hospital" in said(marks, "Signed manifest")[0][1]
    assert [form["title"] for form in signed["pack"]["forms"]] == ["Datasheet, draft"]  # CLAIM is of images
    assert said(form_of(signed["pack"], "posts", "ScoreCard"), "Congruence")[0][0] == NOT_MEASURED


def test_a_manifest_names_its_rows_and_its_signer(signed: dict[str, Any], made: Path, tmp_path: Path) -> None:
    manifest, shard = signed["folder"] / "rows-posts.json", next(made.glob("posts/data/*.parquet"))
    found = inspect_manifest(shard, manifest, signed["anchors"].read_text())
    assert (found["rows"], found["named"], found["signature"]["state"]) == (6, 6, "trusted")
    other = Authority("Another")
    with pytest.raises(ValueError, match="does not hold: no certificate that you named as trusted"):
        inspect_manifest(shard, manifest, as_pem(other.certificate).decode())
    changed = Path(shutil.copytree(signed["folder"], tmp_path / "changed")) / "rows-posts.json"
    changed.write_text(manifest.read_text().replace('"rows": 12', '"rows": 13'))
    with pytest.raises(ValueError, match="was changed after it was signed"):
        inspect_manifest(shard, changed, None)


def test_who_is_no_authority_vouches_for_nobody() -> None:
    authority, key = Authority(), new_key()
    signer = authority.issue("Radiology", key)
    forged = Authority("Radiology", key).issue("Somebody", new_key())
    anchors = [authority.certificate]
    assert why_not_trusted([signer], anchors) == ""
    assert "did not issue each other" in why_not_trusted([forged, signer], anchors)
    assert "not valid now" in why_not_trusted([authority.issue("Radiology", key, days=(-9, -1))], anchors)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("ES256", lambda: ec.generate_private_key(ec.SECP256R1())),
        ("ES384", lambda: ec.generate_private_key(ec.SECP384R1())),
        ("ES512", lambda: ec.generate_private_key(ec.SECP521R1())),
        ("PS256", lambda: rsa.generate_private_key(65537, 2048)),
        ("EdDSA", ed25519.Ed25519PrivateKey.generate),
    ],
)
def test_each_kind_of_key_signs(name: str, make: Any) -> None:
    key = make()
    signature = sign_bytes(key, name, b"rows")
    verify_bytes(key.public_key(), name, signature, b"rows")
    with pytest.raises(InvalidSignature):
        verify_bytes(key.public_key(), name, signature, b"other rows")


def test_a_signature_stays_and_goes_with_its_manifest(signed: dict[str, Any], made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(signed["folder"], tmp_path / "out"))
    identity = read_identity(signed["chain"], signed["key"])
    signature = (folder / "rows-posts.jws").read_bytes()
    for again in (identity, None):  # without a key what was signed is kept as long as it holds
        make_pack(folder, made / "posts", identity=again)
        assert (folder / "rows-posts.jws").read_bytes() == signature
    (folder / "rows-posts.json").write_text("{}")
    pack, _ = make_pack(folder, made / "posts")
    assert not (folder / "rows-posts.jws").exists()
    assert said(form_of(pack, "posts", "Record of marks"), "Signed manifest")[0][0] == NOT_MEASURED


BROKEN = {
    "no folder": (lambda f: shutil.rmtree(f / "eyes"), "eyes is not a folder"),
    "nothing known": (lambda f: [p.unlink() for p in (f / "eyes").glob("*.json")], "holds nothing of a run"),
    "not finished": (lambda f: rewrite(f / "eyes/generation.json", complete=False), "is not finished"),
    "a shard is missing": (lambda f: min((f / "eyes/data").glob("*")).unlink(), "must hold train-"),
    "other shards": (lambda f: write_anew(f / "eyes/data"), "about other shards"),
    "evidence is cut": (lambda f: halve(f / "eyes-evidence/evidence.json"), "evidence.json is damaged"),
    "evidence is no object": (
        lambda f: (f / "eyes-evidence/evidence.json").write_text("[1]"),
        "evidence.json is damaged",
    ),
    "settings are cut": (lambda f: (f / "ddpm/config.yaml").write_text("seed: [1"), "config.yaml cannot be read"),
    "lines are cut": (lambda f: (f / "ddpm/metrics.jsonl").write_text('{"a\n{"b": 1}\n'), "metrics.jsonl is damaged"),
}


def write_anew(folder: Path) -> None:
    """The same rows in other bytes."""
    for path in folder.glob("*.parquet"):
        parquet.write_table(parquet.read_table(path), path, compression="NONE")


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(load(path) | changes))


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_run_is_refused_and_the_pack_before_is_kept(broken: str, tmp_path: Path) -> None:
    for name in ("eyes", "eyes-evidence", "ddpm"):
        shutil.copytree(MADE / name, tmp_path / name)
    out = tmp_path / "out"
    out.mkdir()
    (out / "pack.json").write_text("kept")
    spoil, message = BROKEN[broken]
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message):
        make_pack(out, tmp_path / "eyes", tmp_path / "eyes-evidence")
    assert [path.name for path in out.iterdir()] == ["pack.json"] and (out / "pack.json").read_text() == "kept"


def test_a_study_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    shutil.copytree(MADE / "eyes", tmp_path / "study/generate-ddpm")
    (tmp_path / "study/config.yaml").write_text("generators: {ddpm: {trainer: ddpm}}\n")
    with pytest.raises(ValueError, match="study is a study that is not finished"):
        read_folders([tmp_path / "study"])


def test_evidence_without_its_set_is_refused(made: Path) -> None:
    with pytest.raises(ValueError, match="hold no synthetic set"):
        read_folders([made / "eyes-evidence"])
    with pytest.raises(ValueError, match="is about other shards"):
        read_folders([made / "posts", made / "eyes-evidence"])


def test_what_is_about_another_set_is_refused(made: Path, tmp_path: Path) -> None:
    for name, file, words in (
        ("audit", "membership.json", {"model": "runs/another", "value": 0.5}),
        ("arms", "results.json", {"arms": [], "comparisons": []}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(json.dumps(words))
    (tmp_path / "arms/config.yaml").write_text("synthetic: ddpm=runs/eyes,gan=runs/by-gan\n")
    with pytest.raises(ValueError, match="about the model another, which made none of the sets"):
        read_folders([made / "eyes", tmp_path / "audit"])
    with pytest.raises(ValueError, match="were trained on by-gan, which was not given"):
        read_folders([made / "eyes", tmp_path / "arms"])
    for place in ("a", "b"):
        shutil.copytree(made / "eyes", tmp_path / place / "eyes")
    with pytest.raises(ValueError, match="two of the sets have one name"):
        read_folders([tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"folder": "", "output_dir": "a"}, "what to pack is missing"),
        ({"folder": "a", "output_dir": ""}, "--output_dir is missing"),
        ({"folder": "a", "output_dir": "b", "key": "k.pem"}, "belong together"),
    ],
)
def test_flags_that_do_not_fit(words: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PackArguments(**words)


def test_without_a_browser_it_says_how_to_print(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(print_page(tmp_path, True)) == []
    assert "no browser was found" in capsys.readouterr().out


def test_the_page_is_printed_once(images: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium, as Debian's package chromium")
    monkeypatch.setattr("clinsynth.hub.pack.pack.BROWSERS", (browser,))
    folder = Path(shutil.copytree(images["folder"], tmp_path / "out"))
    (printed,) = print_page(folder, True)
    assert printed.read_bytes().startswith(b"%PDF")
    long_ago = (datetime.now(UTC) - timedelta(days=1)).timestamp()
    os.utime(printed, (long_ago, long_ago))
    assert list(print_page(folder, False)) == [printed] and printed.stat().st_mtime == long_ago


@pytest.mark.parametrize("name", FORMS)
def test_forms_cite_a_source_and_ask_each_thing_once(name: str) -> None:
    form = read_form(name)
    names = [item.name for item in form.items]
    assert form.source and len(set(names)) == len(names)
    assert all(item.says or item.declares or item.missing or item.open for item in form.items)


def test_an_item_that_no_file_answers_is_open_or_not_measured() -> None:
    item = Item("a", says=[Rule("evidence", "x/y", "{.}")], missing="not done", open="say why")
    assert [one.status for one in answer(item, {}, {}, "a source")] == [NOT_MEASURED, OPEN]


def test_of_a_private_column_it_is_told_that_there_is_one() -> None:
    config = Node("run/config.yaml", "$", {"group_column": "mrn", "dataset": "../ward 3/eyes.npz", "seed": 0})
    (claim,) = [item for item in read_form("claim_2024").items if item.name.startswith("20 ")]
    source, persons = Rule("train_config", "dataset", "{.|data}"), claim.says[0]
    private, where = (next(apply(rule, config, {})).to_dict() for rule in (persons, source))
    assert "mrn" not in json.dumps(private) and private["values"][0]["is given"] is True
    assert where["text"] == "eyes.npz" and "ward" not in json.dumps(where)
    assert (
        list(apply(Rule("train_config", "init_from", "{.|data}"), replace(config, value={"init_from": None}), {}))
        == []
    )
    settings = Rule("train_config", "*", "{@}: {.}", settings=True)
    assert [one.text for one in apply(settings, config, {})] == ["seed: 0"]


def test_the_least_gain_that_could_be_shown_is_told() -> None:
    results = Node("run/results.json", "$", {"visible_gain": {"value": 0.0312, "enough": True, "n": 400, "seeds": 5}})
    (item,) = [one for one in read_form("first_page").items if one.name.startswith("Smallest difference")]
    (found,) = answer(item, {"results": [results]}, {}, "")
    assert found.text == "least gain in macro-F1 that 400 test samples could show: 0.0312 (training seeds: 5)"


RECORD = {"value": 0.25, "interval": None, "floor": None, "floor_held_out": None, "p_value": None, "chance": None}
NAMED = dict.fromkeys(("label", "reference", "extractor", "detector", "sentence", "arm"), "a name")
COUNTS = {"n": 9, "n_synthetic": 9, "n_real": 9, "count": 1, "seeds": 2}


def rules_of_records() -> list[tuple[str, Rule]]:
    return [
        (f"{name}: {item.name}: {rule.at}", rule)
        for name in FORMS
        for item in read_form(name).items
        for rule in item.says
        if "metric" in rule.where or "label" in rule.where
    ]


def test_a_value_without_floor_or_interval_is_told_all_the_same() -> None:
    found = rules_of_records()
    assert len(found) > 20
    for name, rule in found:
        record: Any = {**RECORD, **NAMED, **COUNTS, **{key: as_list(value)[0] for key, value in rule.where.items()}}
        if rule.unless:
            record["label"] = "grade 0"
        whole: Any = record | {"interval": [0.1, 0.3]} if "arms" in rule.at or "comparisons" in rule.at else record
        for part in reversed([part for part in rule.at.split("/") if part]):
            whole = [whole] if part == "*" else {part: whole}
        said = list(apply(rule, Node("a.json", "$", whole), {}))
        if "comparisons" in rule.at and "sentence" not in str(rule.say):
            continue  # of an interval alone
        assert [one.status for one in said] == [MEASURED], name


def test_attacks_on_a_tuned_model_and_an_audit_of_its_texts_are_told(made: Path, tmp_path: Path) -> None:
    share = {"value": 0.25, "interval": [0.1, 0.5], "count": 3, "n": 12}
    membership = {"value": 0.5, "interval": [0.3, 0.7], "control": {"value": 0.4}, "tpr": []}
    attacks = {"membership": membership, "extraction": {"prefix": 12, "length": 20, **share, "floor": share}}
    audit: dict[str, Any] = {"flagged": share, "judges": [{"kind": "experts", "texts": 12}]}
    audit["shards_sha256"] = hash_shards(made / "posts")
    for name, file, words in (
        ("attacked", "attacks.json", {"model": "runs/writer", **attacks}),
        ("audited", "audit.json", audit),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(json.dumps(words))
    pack, roots = make_pack(tmp_path / "out", made / "posts", tmp_path / "attacked", tmp_path / "audited")
    check_traced(pack, roots)
    table = form_of(pack, "posts", "Attacks")
    (extraction,) = said(table, "Singling out: training texts said by heart")
    assert extraction[0] == MEASURED and "word by word for 20: 0.250" in extraction[1]
    assert said(table, "Inference: was a sample")[0][0] == MEASURED
    assert said(pack["first_page"], "Membership attack")[0][1].startswith("AUC 0.500")
    assert said(pack["first_page"], "Reading by clinicians")[0][1].startswith("experts looked for harm in 12 texts")
    (tmp_path / "audited/audit.json").write_text(json.dumps({**audit, "shards_sha256": "another"}))
    with pytest.raises(ValueError, match=r"audit\.json is about other shards"):
        read_folders([made / "posts", tmp_path / "audited"])


def test_attacks_by_the_three_criteria_are_told() -> None:
    share = {"value": 0.125, "interval": [0.0, 0.25], "n": 40}
    found = {"main": share, "baseline": share, "control": share, "risk": 0.0625, "interval": [-0.5, 0.5]}
    tried = [
        {"criterion": name, "what": "tried", **found, "leak": False, "strong": True}
        for name in ("singling out", "linkability", "inference")
    ]
    evidence = Node("evidence.json", "$", {"attacks": {"attacks": tried, "not_run": ["linking with others"]}})
    form = fill(read_form("attacks"), {"evidence": [evidence]}, ["images"])
    for name in ("neighbourhood", "two halves", "the label of a real"):
        (item,) = [one for one in form["items"] if name in one["name"]]
        (one,) = item["statements"]
        assert one["status"] == MEASURED and "risk beyond that 0.0625" in one["text"] and "leak: no" in one["text"]
    assert said(form, "Further attacks") == [(NOT_MEASURED, "linking with others")]


def test_an_attack_without_baseline_is_told_all_the_same() -> None:
    membership = Node("membership.json", "$", {"value": 0.41, "interval": [0.2, 0.7], "floor": None, "control": None})
    (item,) = [one for one in read_form("attacks").items if one.name.startswith("Inference: was a sample")]
    (found,) = answer(item, {"membership": [membership]}, {}, "")
    assert "0.410" in found.text and found.status == MEASURED
