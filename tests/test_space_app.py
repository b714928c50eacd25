"""The Space as a whole: its start, what it shows and hides, the model it trains itself, and the pushed copy of it."""

import configparser
import json
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers import REPOSITORY, one_thread, run_python, run_warm, tiny_pipeline

pytest.importorskip("gradio", reason="needs gradio; install it with `pip install clinsynth[space]`")

import gradio as gr
from huggingface_hub import SpaceCard
from loopback_hub.client import run_client
from loopback_hub.hub import LoopbackHub
from pushing import Client
from space_server import SPACE, start_studio, tiny_studio

from clinsynth.hub.files import package_files
from clinsynth.hub_cards.code_cards import space_card

WITHOUT_CHECKOUT = """
import sys
import types
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
sys.path[:] = [entry for entry in sys.path if "__editable__" not in entry]
"""


def test_help_teaches_and_is_quick() -> None:
    said = run_python(SPACE / "app.py", "--help").stdout
    for word in ("--models", "--text_model", "--train_steps", "--host", "--port", "STUDIO_MODELS", "phantom eyes"):
        assert word in said


def test_a_wrong_model_is_named_before_anything_starts(tmp_path: Path) -> None:
    answer = run_warm(SPACE / "app.py", "--models", tmp_path, check=False)
    assert answer.returncode != 0 and f"--models {tmp_path} holds no finished checkpoint" in answer.stderr
    assert "Traceback" not in answer.stderr
    for name in ("a/eyes", "b/eyes"):
        tiny_pipeline().save_pretrained(tmp_path / name)
    answer = run_warm(SPACE / "app.py", "--models", f"{tmp_path}/a/eyes,{tmp_path}/b/eyes", check=False)
    assert "--models names eyes twice" in answer.stderr


def test_only_the_named_endpoints_are_open() -> None:
    studio = tiny_studio()
    api = studio.client().view_api(return_format="dict")
    endpoints = api["named_endpoints"]
    assert {"/images", "/text", "/evidence"} <= set(endpoints) and not api["unnamed_endpoints"]
    assert all(
        field["parameter_has_default"] for name in ("/images", "/evidence") for field in endpoints[name]["parameters"]
    )
    assert not [out["label"] for name in endpoints for out in endpoints[name]["returns"] if "value_" in out["label"]]
    for path in (SPACE / "app.py", studio.folder / "eyes" / "config.yaml", Path("/etc/hostname")):
        assert httpx.get(f"{studio.url}/gradio_api/file={path}", timeout=60).status_code in (403, 404)
    config = httpx.get(f"{studio.url}/config", timeout=60)
    assert config.json()["analytics_enabled"] is False and "not for diagnosis" in config.text
    assert str(studio.folder) not in config.text and str(SPACE) not in config.text


def test_requirements_have_the_lower_bounds_of_the_package() -> None:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    extras = setup["options.extras_require"]
    known = "\n".join([setup["options"]["install_requires"], extras["text"], extras["space"]]).split()
    lines = (SPACE / "requirements.txt").read_text().splitlines()
    needed = [line for line in lines if not line.startswith("#")]
    assert needed == sorted(needed) and set(needed) <= set(known)
    card = SpaceCard(space_card(SPACE, ["me/retina"], repo_id="me/studio"))
    data = card.data.to_dict()
    assert (data["sdk"], data["python_version"], data["app_file"]) == ("gradio", "3.12", "app.py")
    assert f"gradio>={data['sdk_version'].rpartition('.')[0]}" in needed and data["models"] == ["me/retina"]


def test_the_package_travels_as_it_is_installed() -> None:
    files = package_files()
    for path in (
        "clinsynth/__init__.py",
        "clinsynth/data/phantom_fundus.py",
        "clinsynth/pipelines/class_conditioned_ddpm/context_unet.py",
        "clinsynth/hub_cards/templates/parts.md.jinja",
        "clinsynth/recipes/tasks/severity-posts.yaml",
        "clinsynth/scripts/generate_images.py",
    ):
        assert files[path].is_file()
    assert {Path(path).suffix for path in files} == {".py", ".jinja", ".yaml"}
    assert not [path for path in files if re.search(r"/tests?/|/test_|__pycache__", path)]


def test_the_pushed_space_runs_where_clinsynth_is_not_installed(loopback_hub: LoopbackHub, tmp_path: Path) -> None:
    """It also trains its first model there."""
    client = Client(loopback_hub, tmp_path)
    client.done(f"push space {SPACE} --repo_id tester/studio")
    client.close()
    code = (
        'from huggingface_hub import snapshot_download as get\nfound["at"] = get("tester/studio", repo_type="space")'
    )
    copy = Path(run_client(loopback_hub, code, tmp_path)["at"])
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITHOUT_CHECKOUT)
    environment = {"PYTHONPATH": str(tmp_path / "site"), "STUDIO_TRAIN_STEPS": "2"}
    ask = "import clinsynth.metrics, clinsynth.trainers; print(clinsynth.__file__, *clinsynth.metrics.__path__)"
    where = subprocess.check_output([sys.executable, "-c", ask], cwd=copy, env=one_thread(**environment), text=True)
    assert {Path(part).relative_to(copy).parts[0] for part in where.split()} == {"clinsynth"}
    studio = start_studio(tmp_path, app=copy / "app.py", **environment)
    images, _, note = studio.client().predict(label="grade 3", count=2, steps=2, seed=7, api_name="/images")
    assert [item["caption"].split(", distance")[0] for item in images] == ["grade 3, seed 7", "grade 3, seed 8"]
    assert "nearest training image" in note
    folder = tmp_path / "home" / "clinsynth-studio" / "phantom-fundus-2-steps"
    made = json.loads((folder / "environment.json").read_text())
    assert (folder / "model_index.json").exists() and made["git_commit"] is None
    studio.stop()


def test_it_says_what_the_text_tab_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SPACE))
    import models
    from text_tab import NO_MODEL, text_event

    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    tiny_pipeline().save_pretrained(tmp_path / "eyes")
    listed: Any = models.list_models(str(tmp_path / "eyes"), None, 1)
    assert listed.texts == {} and listed.first is None and "--text_model" in NO_MODEL
    with pytest.raises(gr.Error, match="is not one of this Space's: none"):
        next(text_event(listed)("", "severity-posts", "mild"))


def test_a_gpu_is_asked_for_where_the_hub_lends_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in takes the place of the Hub's package, which is nowhere else."""
    monkeypatch.syspath_prepend(str(SPACE))
    from models import on_gpu

    asked = []
    monkeypatch.setitem(sys.modules, "spaces", None)
    assert on_gpu(60)(len) is len
    lent = types.SimpleNamespace(GPU=lambda duration: asked.append(duration) or (lambda function: str))
    monkeypatch.setitem(sys.modules, "spaces", lent)
    assert on_gpu(60)(len) is str and asked == [60]
