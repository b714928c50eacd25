"""huggingface_hub and its command line, unmodified and in processes of their own, against the loopback Hub."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs FastAPI, which `pip install clinsynth[space]` brings")

from loopback_hub.client import run, run_client
from loopback_hub.hub import LoopbackHub

CARD = "---\nlicense: mit\ntags:\n- synthetic\n---\n# A card\n"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with `files/`: a card, a text, a large file below a folder, and what .gitignore keeps back."""
    files = tmp_path / "work" / "files"
    (files / "unet").mkdir(parents=True)
    (files / "README.md").write_text(CARD)
    (files / "notes.txt").write_text("notes\n")
    (files / "empty.txt").write_text("")
    (files / "unet" / "model.safetensors").write_bytes(os.urandom(200_000))
    (files / ".gitignore").write_text("*.log\n")
    (files / "run.log").write_text("not for the Hub\n")
    return tmp_path / "work"


def test_a_folder_goes_up_and_comes_down_the_same(loopback_hub: LoopbackHub, work: Path) -> None:
    loopback_hub.store.page_size = 2  # listings come in several pages
    code = """
    from huggingface_hub import HfApi, snapshot_download, hf_hub_download
    api = HfApi()
    api.create_repo("model", private=True)
    commit = api.upload_folder(repo_id="tester/model", folder_path="files", commit_message="first")
    again = api.upload_folder(repo_id="tester/model", folder_path="files", ignore_patterns=["*.log"])
    found["commits"] = [commit.oid, again.oid, api.model_info("tester/model").sha]
    folder = Path(snapshot_download("tester/model"))
    found["same"] = {str(p.relative_to(folder)): p.read_bytes() == Path("files", p.relative_to(folder)).read_bytes()
                     for p in folder.rglob("*") if p.is_file() and p.name != ".gitattributes"}
    one = hf_hub_download("tester/model", "model.safetensors", subfolder="unet", local_dir="one")
    found["one"] = Path(one).read_bytes() == Path("files/unet/model.safetensors").read_bytes()
    found["listed"] = api.list_repo_files("tester/model")
    found["info"] = [s.size for s in api.model_info("tester/model", files_metadata=True).siblings]
    api.delete_folder("unet", "tester/model")
    api.delete_file("notes.txt", "tester/model")
    found["left"] = api.list_repo_files("tester/model")
    found["old"] = api.list_repo_files("tester/model", revision=commit.oid)
    found["titles"] = [c.title for c in api.list_repo_commits("tester/model")]
    found["absent"] = outcome(hf_hub_download, "tester/model", "absent.txt")
    found["no revision"] = outcome(hf_hub_download, "tester/model", "notes.txt", revision="v9")
    """
    found = run_client(loopback_hub, code, work)
    sent = ["README.md", "empty.txt", "notes.txt", "unet/model.safetensors", ".gitignore"]
    assert found["commits"][0] == found["commits"][1] == found["commits"][2]
    assert found["same"] == dict.fromkeys(sent, True) and found["one"] is True
    assert sorted(found["listed"]) == sorted(found["old"]) == sorted([*sent, ".gitattributes"])
    assert sorted(found["left"]) == [".gitattributes", ".gitignore", "README.md", "empty.txt"]
    assert found["titles"][-2:] == ["first", "initial commit"] and len(found["titles"]) == 4
    assert found["absent"] == "RemoteEntryNotFoundError" and found["no revision"] == "RevisionNotFoundError"
    repo = loopback_hub.repo("model", "tester/model")
    content = (work / "files" / "unet" / "model.safetensors").read_bytes()
    assert repo.read("unet/model.safetensors", found["commits"][0]) == content
    entry = repo.entry("unet/model.safetensors", found["commits"][0])
    assert entry.sha256 == hashlib.sha256(content).hexdigest() and entry.size == 200_000
    assert repo.entry("README.md").sha256 is None and sorted(found["info"])[-1] == 200_000


def test_branches_pull_requests_tags_settings_and_cards(loopback_hub: LoopbackHub, work: Path) -> None:
    code = """
    from huggingface_hub import HfApi, ModelCard, hf_hub_download
    api = HfApi()
    card = ModelCard(Path("files/README.md").read_text())
    api.create_repo("model")
    card.validate()
    card.push_to_hub("tester/model")
    bad = ModelCard("---\\nlicense: my-own\\n---\\n")
    found["bad card"] = [outcome(bad.validate), outcome(bad.push_to_hub, "tester/model")]
    api.create_branch("tester/model", branch="trial/one")
    one_file = dict(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="tester/model")
    on_branch = api.upload_file(**one_file, revision="trial/one")
    request = api.upload_file(path_or_fileobj=b"y", path_in_repo="y.txt", repo_id="tester/model", create_pr=True)
    found["request"] = [request.pr_url.split("/tester/")[1], request.pr_revision, request.pr_num]
    found["y"] = Path(hf_hub_download("tester/model", "y.txt", revision="refs/pr/1")).read_text()
    api.create_tag("tester/model", tag="v1")
    found["before"] = api.list_repo_files("tester/model")
    api.merge_pull_request("tester/model", request.pr_num)
    refs = api.list_repo_refs("tester/model", include_pull_requests=True)
    found["refs"] = [[ref.name for ref in kind] for kind in (refs.branches, refs.tags, refs.pull_requests)]
    found["after"], found["tagged"] = [api.list_repo_files("tester/model", revision=r) for r in ("main", "v1")]
    keywords = dict(path_or_fileobj=b"z", path_in_repo="z.txt", repo_id="tester/model")
    found["stale"] = outcome(api.upload_file, **keywords, parent_commit=on_branch.oid)
    found["fresh"] = outcome(api.upload_file, **keywords, parent_commit=api.model_info("tester/model").sha)
    api.update_repo_settings("tester/model", private=True, gated="manual")
    info = api.model_info("tester/model")
    found["settings"] = [info.private, info.gated, info.card_data.license, info.tags]
    api.delete_branch("tester/model", branch="trial/one")
    found["branch gone"] = outcome(api.model_info, "tester/model", revision="trial/one")
    api.delete_repo("tester/model")
    found["gone"] = api.repo_exists("tester/model")
    """
    found = run_client(loopback_hub, code, work)
    assert found["bad card"] == ["ValueError", "ValueError"]
    assert found["request"] == ["model/discussions/1", "refs/pr/1", 1] and found["y"] == "y"
    assert found["refs"] == [["main", "trial/one"], ["v1"], ["refs/pr/1"]]
    assert "y.txt" not in found["before"] + found["tagged"] and "y.txt" in found["after"]
    assert (found["stale"], found["fresh"]) == ("HfHubHTTPError", "done")
    assert found["settings"] == [True, "manual", "mit", ["synthetic", "license:mit"]]
    assert (found["branch gone"], found["gone"]) == ("RevisionNotFoundError", False)


def test_spaces_and_collections(loopback_hub: LoopbackHub, work: Path) -> None:
    code = """
    from huggingface_hub import HfApi
    api = HfApi()
    variables = [{"key": "MODEL", "value": "a/b"}]
    api.create_repo("studio", repo_type="space", space_sdk="gradio", space_variables=variables)
    api.create_repo("set", repo_type="dataset", private=True)
    found["stage"] = api.get_space_runtime("tester/studio").stage
    app = dict(path_or_fileobj=b"import gradio", path_in_repo="app.py")
    api.upload_file(**app, repo_id="tester/studio", repo_type="space")
    api.add_space_variable("tester/studio", "STEPS", "25")
    api.add_space_secret("tester/studio", "HF_TOKEN", "secret")
    found["variables"] = {k: v.value for k, v in api.get_space_variables("tester/studio").items()}
    api.request_space_hardware("tester/studio", "zero-a10g")
    runtime = api.get_space_runtime("tester/studio")
    found["runtime"] = [runtime.stage, runtime.requested_hardware]
    info = api.space_info("tester/studio")
    found["space"] = [info.sdk, info.host, info.card_data.title]
    collection = api.create_collection("Retina: all parts", description="what belongs together", private=True)
    for name, kind in (("studio", "space"), ("set", "dataset")):
        api.add_collection_item(collection.slug, item_id=f"tester/{name}", item_type=kind, note="of the study")
    found["twice"] = outcome(api.add_collection_item, collection.slug, "tester/set", "dataset")
    api.add_collection_item(collection.slug, "tester/set", "dataset", exists_ok=True)
    found["nothing"] = outcome(api.add_collection_item, collection.slug, "tester/none", "model")
    found["same"] = api.create_collection("Retina: all parts", exists_ok=True).slug == collection.slug
    items = api.get_collection(collection.slug).items
    found["items"] = [[item.item_id, item.item_type, item.note] for item in items]
    found["listed"] = [one.title for one in api.list_collections(owner="tester")]
    """
    found = run_client(loopback_hub, code, work)
    assert found["stage"] == "NO_APP_FILE" and found["runtime"] == ["BUILDING", "zero-a10g"]
    assert found["variables"] == {"MODEL": "a/b", "STEPS": "25"}
    assert found["space"] == ["gradio", "https://tester-studio.hf.space", "studio"]
    assert (found["twice"], found["nothing"], found["same"]) == ("HfHubHTTPError", "RepositoryNotFoundError", True)
    assert [row[:2] for row in found["items"]] == [["tester/studio", "space"], ["tester/set", "dataset"]]
    assert found["items"][0][2] == "of the study" and found["listed"] == ["Retina: all parts"]
    assert loopback_hub.repo("space", "tester/studio").settings["space"]["secrets"] == ["HF_TOKEN"]


def test_what_is_private_or_gated_is_kept_from_others(loopback_hub: LoopbackHub, work: Path) -> None:
    loopback_hub.add_user("other", "hf_other")
    loopback_hub.add_user("reader", "hf_reader", role="read", organizations=("tester",))
    code = """
    from huggingface_hub import HfApi, login
    owner, other, reader, nobody, wrong = [
        HfApi(token=t) for t in ("hf_loopbacktester", "hf_other", "hf_reader", False, "hf_wrong")]
    for name, private in (("private", True), ("gated", False)):
        owner.create_repo(name, private=private)
        owner.upload_folder(repo_id=f"tester/{name}", folder_path="files")
    owner.update_repo_settings("tester/gated", gated="auto")
    for who, api in (("other", other), ("reader", reader), ("nobody", nobody), ("wrong", wrong)):
        found[who] = [outcome(api.model_info, "tester/private"),
                      outcome(api.hf_hub_download, "tester/private", "notes.txt", cache_dir=who),
                      outcome(api.hf_hub_download, "tester/gated", "notes.txt", cache_dir=who),
                      outcome(api.upload_file, path_or_fileobj=b"1", path_in_repo="1", repo_id="tester/gated")]
    found["namespace"] = outcome(other.create_repo, "tester/mine")
    found["whoami"] = [outcome(wrong.whoami), reader.whoami()["orgs"][0]["name"]]
    login("hf_other")
    found["login"] = [HfApi().whoami()["name"], outcome(login, "hf_wrong")]
    """
    found = run_client(loopback_hub, code, work, token=None)
    missing, error = "RepositoryNotFoundError", "HfHubHTTPError"
    assert found["other"] == [missing, missing, "GatedRepoError", error]
    assert found["reader"] == ["done", "done", "done", error]
    assert found["nobody"] == [missing, missing, "GatedRepoError", error]
    assert found["wrong"] == [error, error, error, error]
    assert found["login"] == ["other", error]
    assert found["namespace"] == error and found["whoami"] == [error, "tester"]
    assert {call.status for call in loopback_hub.calls("GET */tester/private*")} == {200, 404, 401}
    assert "tester/mine" not in {name for _, name in loopback_hub.store.repositories}


def test_large_files_in_parts_and_many_files(loopback_hub: LoopbackHub, work: Path) -> None:
    loopback_hub.store.multipart_above, loopback_hub.store.part_size = 100_000, 64_000
    for i in range(300):
        (work / "files" / f"{i:03}.txt").write_text(str(i))
    command = [sys.executable, "-m", "huggingface_hub.cli.hf", "upload", "tester/many", "files", ".", "--private"]
    answer = run(loopback_hub, [*command, "--repo-type", "dataset", "--revision", "trial"], work)
    repo = loopback_hub.repo("dataset", "tester/many")
    assert repo.resolve("trial").id in answer.stdout and repo.settings["private"] is True
    assert len(repo.files("trial")) == 306 and list(repo.files("main")) == [".gitattributes"]
    content = (work / "files" / "unet" / "model.safetensors").read_bytes()
    assert repo.read("unet/model.safetensors", "trial") == content
    assert [call.size for call in loopback_hub.calls("PUT *")] == [64_000, 64_000, 64_000, 8_000]
    assert len(loopback_hub.calls("POST */preupload/*")) == 2  # 256 files a call
    assert not list((loopback_hub.folder / "hub" / "uploads").iterdir())


def test_a_client_with_xet_neither_uploads_nor_breaks_anything(loopback_hub: LoopbackHub, work: Path) -> None:
    pytest.importorskip("hf_xet", reason="without hf_xet a client does not ask for Xet")
    code = """
    from huggingface_hub import HfApi, constants
    api = HfApi()
    api.create_repo("model")
    large = "files/unet/model.safetensors"
    keywords = dict(path_in_repo="model.safetensors", repo_id="tester/model")
    found["refused"] = outcome(api.upload_file, path_or_fileobj=large, **keywords)
    with open(large, "rb") as file:
        found["open file"] = outcome(api.upload_file, path_or_fileobj=file, **keywords)
    found["download"] = Path(api.hf_hub_download("tester/model", "model.safetensors")).stat().st_size
    constants.HF_HUB_DISABLE_XET = True
    found["told"] = outcome(api.upload_folder, repo_id="tester/model", folder_path="files")
    """
    found = run_client(loopback_hub, code, work, xet=True)
    assert found == {"refused": "ConnectionError", "open file": "done", "download": 200_000, "told": "done"}


def test_ids_are_those_of_git(loopback_hub: LoopbackHub, tmp_path: Path) -> None:
    repo = loopback_hub.store.create("model", "tester/model", False, "tester")
    files = {"a.txt": b"a", "a/b.txt": b"b", "a/c/d.txt": b"d", "a-b/e.txt": b""}
    commit = repo.commit("main", {path: repo.store_blob(text) for path, text in files.items()}, "words", "more", "me")
    git = tmp_path / "git"
    git.mkdir()
    for path in commit.files:
        place = git / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(repo.read(path))

    def run_git(*words: str, text: str | None = None) -> str:
        command = ["git", "-c", "core.attributesFile=/dev/null", *words]
        done = subprocess.run(command, cwd=git, input=text, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    run_git("init", "-q")
    run_git("add", ".")
    tree = run_git("write-tree")
    assert commit.folders[""] == tree and commit.folders["a/c"] == run_git("rev-parse", f"{tree}:a/c")
    assert commit.files["a/b.txt"].oid == run_git("hash-object", "a/b.txt")
    first = repo.resolve(str(commit.parent))
    assert len(first.id) == 40 and repo.commits()[-1] == first
    row = f"tree {tree}\nparent {first.id}\n"
    people = [f"{role} me <me@users.noreply> {commit.date} +0000\n" for role in ("author", "committer")]
    body = row + "".join(people) + "\nwords\n\nmore\n"
    assert commit.id == run_git("hash-object", "-t", "commit", "--stdin", "--literally", text=body)
    assert commit == LoopbackHub(loopback_hub.folder).repo("model", "tester/model").resolve()
