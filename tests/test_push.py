"""`clinsynth push` against the loopback Hub: what leaves and what does not, and where it lies."""

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import run_warm
from huggingface_hub import RepoCard
from PIL import Image

pytest.importorskip("fastapi", reason="needs FastAPI, which `pip install clinsynth[space]` brings")

from loopback_hub.client import run_client
from loopback_hub.hub import LoopbackHub
from pushing import (  # noqa: F401 (two are fixtures)
    MODEL,
    SET,
    SET_FILES,
    Client,
    files_of,
    pushing_client,
    sound_hub,
    stamp,
    wait_until,
    write_signed,
)

from clinsynth.synthesis.provenance import SOURCE_TYPE, read_mark

MODEL_FILES = (
    "README.md model_index.json pipeline_class_conditioned_ddpm.py scheduler/scheduler_config.json unet/config.json "
    "unet/context_unet.py unet/diffusion_pytorch_model.safetensors"
).split()


def test_a_model_leaves_without_what_is_private_and_loads(client: Client, hub: LoopbackHub) -> None:
    """Around the checkpoint lies what runs leave and people drop there."""
    planted = (
        "checkpoint-5/unet/diffusion_pytorch_model.safetensors training_state/optimizer.safetensors optimizer.pt "
        "validation/real.png unet/real.png samples/real-eyes.png metrics.jsonl prompts.json examples.jsonl "
        "canaries.json unet/training_captions.txt config.yaml environment.json model.safetensors notes.py .env "
        "data/train.parquet"
    ).split()
    folder = client.folder / "crowded"
    shutil.copytree(client.folder / "retina", folder)
    for path in planted:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("{}\n" if path.endswith(("json", "jsonl", "yaml")) else "# a patient's name\n")
    listed = client.done("push model crowded --repo_id tester/crowded --dry_run")
    calls = len(hub.requests)
    said = client.done("push model crowded --repo_id tester/crowded --verify")
    assert calls == 0 and "ClassConditionedDDPMPipeline" in said
    assert said.count("has no Xet storage") == 1 and "(private)" in said
    assert files_of(hub, "model", "crowded") == MODEL_FILES
    shown = [line.split()[1] for line in listed.splitlines() if line.startswith("  ")]
    assert sorted(shown) == MODEL_FILES
    assert hub.repo("model", "tester/crowded").settings["private"]
    assert [commit.title for commit in hub.repo("model", "tester/crowded").commits()] == [
        "clinsynth push model",
        "initial commit",
    ]


def test_a_data_set_is_private_whole_and_says_what_it_is(client: Client, hub: LoopbackHub, tmp_path: Path) -> None:
    said = client.done(f"{SET}set --verify")
    assert "streamed default with columns image, label, seed, synthetic, generator, revision" in said
    repo = hub.repo("dataset", "tester/set")
    assert files_of(hub, "dataset", "set") == SET_FILES and repo.settings["private"] and len(repo.commits()) == 2
    generation = json.loads((client.folder / "set" / "generation.json").read_text())
    weights = generation["generator"]["weights_sha256"]
    rows = pq.read_table(io.BytesIO(repo.read(SET_FILES[2]))).to_pylist()
    for row in rows:
        assert (row["synthetic"], row["generator"], row["revision"]) == (True, "retina", weights)
        says = {"synthetic": True, "generator": "retina", "revision": weights, "seed": row["seed"]}
        assert read_mark(row["image"]["bytes"]) == {**says, "digital_source_type": SOURCE_TYPE}
    texts = [repo.read(path).decode() for path in ("README.md", "generation.json", "evidence.json", "croissant.json")]
    assert not any(str(client.folder) in text or "/tmp" in text for text in texts)
    assert '"pairs"' not in texts[2] and '"train_row"' not in texts[2]
    assert "| exact copies | 0 of 24 images | 0.00% | passed |" in texts[0] and "| synthetic | bool |" in texts[0]
    described = json.loads(texts[3])
    hashes = {one["contentUrl"]: one["sha256"] for one in described["distribution"] if "contentUrl" in one}
    assert hashes == {path: hashlib.sha256(repo.read(path)).hexdigest() for path in SET_FILES[2:5]}
    assert described["url"].endswith("/tester/set") and described["prov:wasGeneratedBy"]
    (tmp_path / "eye.png").write_bytes(rows[0]["image"]["bytes"])
    (tmp_path / "eyes.parquet").write_bytes(repo.read(SET_FILES[2]))
    assert json.loads(client.done(f"inspect {tmp_path}/eye.png"))["seed"] == rows[0]["seed"]
    says = json.loads(client.done(f"inspect {tmp_path}/eyes.parquet"))
    assert says["generator"] == {"retina": 10} and says["pictures"] == {"marked": 10, "agree with their row": 10}
    for path in SET_FILES[2:5]:
        assert repo.read(path) == (client.folder / "set" / path).read_bytes()  # as they were generated
    pq.write_table(pa.table({"seed": [1]}), tmp_path / "eyes.parquet")
    assert "does not say where it comes from" in client.refused(f"inspect {tmp_path}/eyes.parquet")


def test_pushing_again_changes_what_changed_and_nothing_else(client: Client, hub: LoopbackHub) -> None:
    client.done(f"{SET}again")
    repo, puts = hub.repo("dataset", "tester/again"), len(hub.calls("PUT */tester/again/*"))
    client.done(f"{SET}again")
    assert len(repo.commits()) == 2 and len(hub.calls("PUT */tester/again/*")) == puts
    merge_shards(client.folder / "set", client.folder / "merged")
    shutil.copytree(client.folder / "evidence", client.folder / "merged-evidence")
    stamp(client.folder / "merged-evidence", client.folder / "merged")
    client.done("push dataset merged --evidence merged-evidence --repo_id tester/again")
    assert len(repo.commits()) == 3
    assert [path for path in files_of(hub, "dataset", "again") if "data/" in path] == [
        "data/train-00000-of-00001.parquet"
    ]


def merge_shards(folder: Path, other: Path) -> None:
    """The same rows in one shard."""
    shutil.copytree(folder, other, ignore=shutil.ignore_patterns("*.parquet"))
    tables = [pq.read_table(path) for path in sorted(folder.glob("data/*.parquet"))]
    pq.write_table(pa.concat_tables(tables), other / "data" / "train-00000-of-00001.parquet")


QUESTIONS = """---
license: other
license_name: for-the-study-alone
extra_gated_prompt: Who are you?
extra_gated_fields: {Hospital: text}
tags: [old]
---
Words of the owner.
"""


OWNER = f"""
from huggingface_hub import HfApi
api = HfApi()
for kind in ("model", "dataset"):
    where = {{"repo_id": "tester/gated", "repo_type": kind}}
    api.create_repo(**where, private=True)
    api.update_repo_settings(**where, gated="manual")
    api.upload_file(**where, path_in_repo="README.md", path_or_fileobj={QUESTIONS.encode()!r})
"""


def test_a_gated_repository_keeps_its_questions_licence_and_card(client: Client, hub: LoopbackHub) -> None:
    run_client(hub, OWNER, client.folder)
    assert "README.md of tester/gated stays as it is" in client.done(f"{MODEL}gated")
    assert hub.repo("model", "tester/gated").read("README.md").decode() == QUESTIONS
    client.done(f"{SET}gated --data_license mit --data_name Eyes")
    card = RepoCard(hub.repo("dataset", "tester/gated").read("README.md").decode())
    told = card.data.to_dict()
    assert (told["license"], told["license_name"]) == ("other", "for-the-study-alone")
    assert told["extra_gated_prompt"] == "Who are you?" and told["extra_gated_fields"] == {"Hospital": "text"}
    assert "old" not in told["tags"] and "| exact copies |" in card.text
    assert hub.repo("dataset", "tester/gated").settings["gated"] == "manual"


def test_a_trainer_pushes_by_the_same_door(client: Client, hub: LoopbackHub) -> None:
    """--push_to_hub: private, with the card, and not into a repository that anybody can read."""
    hub.store.create("model", "tester/open", private=False, author="tester")
    code = (
        f"import os, sys; os.chdir({str(client.folder)!r}); from pathlib import Path\n"
        "from clinsynth.trainers.harness import push_result\n"
        "push_result(Path('crowded'), sys.argv[1] or None)"
    )

    def push(name: str) -> str:
        done = run_warm("-c", code, name, check=False, **hub.environment(), HF_HUB_OFFLINE="0")
        return done.stdout + done.stderr

    shutil.copytree(client.folder / "retina", client.folder / "crowded", dirs_exist_ok=True)
    said = push("open")
    assert "tester/open is public; give --public" in said and "but was not pushed" in said
    assert files_of(hub, "model", "open") == []
    push("")
    repo = hub.repo("model", "tester/crowded")
    assert repo.settings["private"] and files_of(hub, "model", "crowded") == sorted(MODEL_FILES)


def test_several_generators_are_several_configurations(client: Client, hub: LoopbackHub) -> None:
    code, said = client.run(
        "push dataset a=set b=set --evidence evidence,evidence --repo_id tester/both --gated manual --verify"
    )
    assert code == 0 and "streamed a with columns" in said and "; b with columns" in said
    assert files_of(hub, "dataset", "both") == sorted(
        ["README.md", *(f"{a}/{path}" for a in "ab" for path in SET_FILES)]
    )
    assert hub.repo("dataset", "tester/both").settings["gated"] == "manual"
    assert (
        'load_dataset("tester/both", "b", split="train")'
        in hub.repo("dataset", "tester/both").read("b/README.md").decode()
    )
    assert "--evidence must name one folder for each of the 2 sets" in client.refused(
        "push dataset a=set b=set --evidence evidence --repo_id tester/both"
    )


def test_only_measured_sets_that_pass_are_pushed(client: Client, hub: LoopbackHub) -> None:
    assert "--evidence is missing" in client.refused("push dataset set --repo_id tester/gate")
    merge_shards(client.folder / "set", client.folder / "other")
    assert "is about other shards" in client.refused("push dataset other --evidence evidence --repo_id tester/gate")
    plant_real_picture(client.folder)
    command = "push dataset copied --evidence copied-evidence --repo_id tester/gate"
    assert "the gate refuses copied: exact copies: 1 of 24 images (test 1) (limit: 0.00%)" in client.refused(command)
    assert ("dataset", "tester/gate") not in hub.store.repositories
    client.done(f"{command} --max_exact_copies 0.05 --dry_run")
    client.done(f"{command} --accept_risk these~eyes|are~drawn")
    card = hub.repo("dataset", "tester/gate").read("README.md").decode()
    assert "**Published with an accepted risk.** The publisher's reason: these eyes\\|are drawn" in card
    assert "Published all the same, by the publisher's reason: these eyes\\|are drawn" in card
    assert "| exact copies | 1 of 24 images (test 1) | 0.00% | **not passed** |" in card


def plant_real_picture(folder: Path) -> None:
    """`copied`: the set with a real test picture, upside down, and evidence that found nothing of the kind."""
    merge_shards(folder / "set", folder / "copied")
    path = folder / "copied" / "data" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    rows, file = table.to_pylist(), io.BytesIO()
    Image.fromarray(np.load(folder / "patients.npz")["test_images"][3][::-1]).save(file, "PNG")
    rows[5]["image"]["bytes"] = file.getvalue()
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    shutil.copytree(folder / "evidence", folder / "copied-evidence")
    stamp(folder / "copied-evidence", folder / "copied")


def test_evidence_is_bound(client: Client) -> None:
    """To the run that wrote it, to the real rows that it names, and to what the generator was trained on."""

    def refused(change: Callable[[dict[str, Any]], object], signed: bool = False) -> str:
        shutil.copytree(client.folder / "evidence", client.folder / "bound", dirs_exist_ok=True)
        path = client.folder / "bound" / "evidence.json"
        content = json.loads(path.read_text())
        change(content)
        if signed:
            write_signed(path.parent, content)
        else:
            path.write_text(json.dumps(content))
        return client.refused("push dataset set --evidence bound --repo_id tester/bound --dry_run")

    by_hand = "signature of the evidence: changed since, or by another user's key"
    assert by_hand in refused(lambda content: content["privacy"].update(verdict="no sign at all"))
    assert "signature of the evidence: there is none" in refused(lambda content: content.pop("signature"))
    other = {"train": "0" * 64}
    assert "is of other real rows" in refused(
        lambda content: content["data"]["real_sha256"].update(other), signed=True
    )
    seen = {"sha256": "0" * 64, "n": 48, "shape": [1, 28, 28]}
    found = refused(lambda content: content["data"].update(trained_on=seen), signed=True)
    assert "train split of the evidence: other rows than the generator was trained on" in found


def test_a_shard_that_changes_while_it_is_pushed_is_not_sent(client: Client, hub: LoopbackHub) -> None:
    """The gate was about the bytes that it hashed."""
    folder = Path(shutil.copytree(client.folder / "set", client.folder / "changing"))
    fault = hub.slow("POST */repos/create", seconds=3)
    client.begin("push dataset changing --evidence evidence --repo_id tester/changing")
    wait_until(lambda: fault.happened)
    path = folder / SET_FILES[2]
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table.slice(5), table.slice(0, 5)]), client.folder / "other.parquet")
    (client.folder / "other.parquet").replace(path)
    code, said = client.end()
    assert code == 2 and f"{path.name} has changed since the push began" in said
    assert files_of(hub, "dataset", "changing") == [] and not hub.calls("PUT */tester/changing/*")


def test_what_is_no_shard_stops_a_set_and_odd_columns_stay(client: Client, hub: LoopbackHub) -> None:
    folder = client.folder / "odd"
    merge_shards(client.folder / "set", folder)
    path = folder / "data" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.append_column("patient", pa.array(["Doe"] * table.num_rows)), path)
    for name in ("real.png", "prompts.json", "metrics.jsonl"):
        (folder / name).write_text("{}")
    shutil.copytree(client.folder / "evidence", client.folder / "odd-evidence")
    stamp(client.folder / "odd-evidence", folder)
    command = "push dataset odd --evidence odd-evidence --repo_id tester/odd"
    assert "columns that are not published: patient" in client.done(command)
    assert set(files_of(hub, "dataset", "odd")) == {*SET_FILES[:2], f"data/{path.name}", *SET_FILES[5:]}
    assert b"Doe" not in b"".join(map(hub.repo("dataset", "tester/odd").read, files_of(hub, "dataset", "odd")))
    shutil.copy(path, folder / "data" / "real.parquet")
    assert "got real.parquet among 2 files" in client.refused(command)


def test_branches_pull_requests_collections_and_visibility(client: Client, hub: LoopbackHub) -> None:
    client.done(f"{MODEL}places --public --revision v2")
    repo = hub.repo("model", "tester/places")
    assert not repo.settings["private"] and files_of(hub, "model", "places") == []
    assert files_of(hub, "model", "places", "v2") == MODEL_FILES
    assert "tester/places is public; give --public" in client.refused(f"{MODEL}places")
    said = client.done(f"{MODEL}places --public --create_pr --collection Retina --gated auto")
    client.done(f"{SET}eyes --collection Retina")
    client.done(f"{SET}eyes --collection Retina")
    (collection,) = hub.store.collections.values()
    listed = [(item["type"], item["id"]) for item in collection["items"]]
    assert listed == [("model", "tester/places"), ("dataset", "tester/eyes")]
    assert "discussions/1" in said and "collection: " in said and repo.settings["gated"] == "auto"
    assert files_of(hub, "model", "places", "refs/pr/1") == MODEL_FILES and files_of(hub, "model", "places") == []
    client.done(f"{MODEL}hidden")
    assert "tester/hidden is private" in client.refused(f"{MODEL}hidden --public")


def test_metrics_and_spaces_are_pushed_as_they_run(client: Client, hub: LoopbackHub) -> None:
    metric = Path(__file__).parent.parent / "metrics" / "kid"
    said = client.done(f"push metric {metric} --repo_id tester/kid --verify")
    assert "with inputs features, source" in said and files_of(hub, "space", "kid") == ["README.md", "kid.py"]
    space = client.folder / "studio"
    (space / "checklists").mkdir(parents=True)
    (space / "app.py").write_text("print('hello')\n")
    (space / "requirements.txt").write_text("gradio==6.31.0\n")
    (space / "checklists" / "eye.yaml").write_text("items: []\n")
    for name in ("scores.csv", "real.png", "report.html", "test_app.py", "reviews.json"):
        (space / name).write_text("a patient")
    client.done("push space studio --repo_id tester/studio --models tester/retina --verify")
    assert files_of(hub, "space", "studio") == ["README.md", "app.py", "checklists/eye.yaml", "requirements.txt"]
    assert "- tester/retina" in hub.repo("space", "tester/studio").read("README.md").decode()
