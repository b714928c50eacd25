"""Studies and drawing on a cluster of Ray: two raylets on this machine, one of which is killed at its work."""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import clinsynth, run_study, tiny_pipeline
from test_generate_text import read_rows
from test_study import RECIPE, plan, write_recipe
from text_models import save_small_task, save_tiny_model
from warm_python import WarmPython

from clinsynth.cluster import Workplace, check_sizes, connected
from clinsynth.processes import release_locks
from clinsynth.scripts import generate_images, generate_text
from clinsynth.scripts.generate_images import GenerateImagesArguments
from clinsynth.scripts.generate_text import GenerateTextArguments
from clinsynth.study.plan import Step
from clinsynth.study.steps import reason_of, resources_of, run_in_worker

SMALL = {
    "generators": {"ddpm": RECIPE["generators"]["ddpm"]},
    "draws": 1,
    "classifiers": {"small": {**RECIPE["classifiers"]["small"], "arms": "real", "seeds": 1}},
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two nodes of one core each."""
    pytest.importorskip("ray", reason="needs Ray, which `pip install clinsynth[cluster]` brings")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # else it waits for all other tests
        cluster = Cluster()
        for _ in range(2):
            add_node(cluster)
        yield cluster
        cluster.shutdown()


def add_node(cluster: Any) -> None:
    """One more node; on a busy machine Ray's half a minute for its start is too short now and then."""
    for attempt in range(3):
        try:
            cluster.add_node(num_cpus=1, num_gpus=0, object_store_memory=80 * 2**20, include_dashboard=False)
        except Exception:
            if attempt == 2:
                raise
        else:
            return


def test_a_study_goes_on_under_ray_while_a_node_dies_and_back(cluster: Any, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, **SMALL)
    whole, begun = tmp_path / "whole", tmp_path / "begun"
    run_study(recipe, "--output_dir", whole)
    (first,) = whole.glob("train-ddpm-*")
    shutil.copytree(first, begun / first.name)
    words = ["study", recipe, "--output_dir", begun]
    with WarmPython("-m", "clinsynth", *words, "--engine", "ray", "--address", cluster.address) as study:
        wait_for(lambda: list(begun.glob("evaluate-ddpm/*")) or study.has_ended)
        kill_second_node(cluster)
        add_node(cluster)
        code, said, mistakes = study.end()
    assert code == 0, said + mistakes
    assert "train ddpm: done before" in said and "dashboard: " in said
    reports = [json.loads((folder / "report.json").read_text()) for folder in (whole, begun)]
    measured = [report["generators"]["ddpm"]["evidence"]["measurements"] for report in reports]
    assert measured[0] == measured[1]
    assert reports[0]["classifiers"]["small"]["arms"] == reports[1]["classifiers"]["small"]["arms"]
    again = clinsynth(*words).stdout
    assert again.count("done before") == 5 and "nothing has changed" in again


def wait_for(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300
    while not ready():
        assert time.monotonic() < deadline, "too slow"
        time.sleep(0.02)


def kill_second_node(cluster: Any) -> None:
    """End the raylet of the second node by SIGKILL, with all that it has begun."""
    (node,) = cluster.worker_nodes
    cluster.remove_node(node, allow_graceful=False)


def test_images_are_those_of_one_process_whatever_dies(cluster: Any, tmp_path: Path) -> None:
    model = tmp_path / "model"
    tiny_pipeline(prediction_type="v_prediction", timestep_spacing="trailing").save_pretrained(model)
    settings: dict[str, Any] = {"model": str(model), "per_class": 24, "num_inference_steps": 8, "shard_size": 4}
    generate_images.main(GenerateImagesArguments(output_dir=str(tmp_path / "one"), **settings))
    drawn = tmp_path / "drawn"

    def kill_at_work() -> None:
        wait_for(lambda: len(list(drawn.glob("data/train-*"))) >= 2)
        kill_second_node(cluster)

    with ThreadPoolExecutor() as threads:
        killing = threads.submit(kill_at_work)
        ray: dict[str, Any] = {"engine": "ray", "address": cluster.address, "workers": 2}
        generate_images.main(GenerateImagesArguments(output_dir=str(drawn), **settings, **ray))
        killing.result()
    add_node(cluster)
    assert len(read_rows(drawn)) == 72 and read_rows(drawn) == read_rows(tmp_path / "one")
    assert not list(drawn.glob("data/.*"))


def test_texts_begun_here_are_drawn_to_their_end_there(cluster: Any, tmp_path: Path) -> None:
    model, task = save_tiny_model(tmp_path / "model"), save_small_task(tmp_path / "small.yaml")
    settings: dict[str, Any] = {"model": str(model), "task": str(task), "per_class": 8, "shard_size": 4}
    whole, begun = tmp_path / "whole", tmp_path / "begun"
    generate_text.main(GenerateTextArguments(output_dir=str(whole), **settings))
    shutil.copytree(whole, begun)
    release_locks()
    for path in [*begun.glob("data/*")][1:]:
        path.unlink()
    ray: dict[str, Any] = {"engine": "ray", "address": cluster.address, "workers": 1}
    generate_text.main(GenerateTextArguments(output_dir=str(begun), **settings, **ray))
    assert read_rows(begun) == read_rows(whole) and len(read_rows(begun)) == 16


def test_what_a_worker_refuses_is_said_as_here(cluster: Any, tmp_path: Path) -> None:
    away = replace(Workplace.of(tmp_path), output_dir=tmp_path / "away")
    older = replace(Workplace.of(tmp_path), version="0.0.1")
    step = Step("train ddpm", ("train", "ddpm"), {"width": 9}, "0" * 8, tmp_path / "step")
    with connected(cluster.address) as ray:
        task = ray.remote(run_in_worker)
        ended = [task.remote(step, place) for place in (away, older, Workplace.of(tmp_path))]
        reasons = [reason_of(ray, each) for each in ended]
        with pytest.raises(ValueError, match=r"'train ddpm' asks for CPU 1, GPU 4, and no machine .* GPU 0.* add a"):
            check_sizes(ray.nodes(), {"the step 'train ddpm'": resources_of(step, {"train": {"gpus": 4}}, False)})
    assert f"does not see the folder {tmp_path / 'away'}" in reasons[0]
    assert "install this one there" in reasons[1]
    assert reasons[2].startswith("ended with status 2") and "--width must be a multiple of 8, got 9" in reasons[2]


def test_resources_are_those_of_the_step_then_of_its_kind() -> None:
    asked = {"all": {"memory_gb": 2}, "train": {"cpus": 4}, "train gan": {"gpus": 0}}
    steps = [Step(name, ("train",), {}, "0" * 8, Path()) for name in ("train ddpm", "train gan", "evaluate ddpm")]
    found = [resources_of(step, asked, has_gpus=True) for step in steps]
    assert [(need["CPU"], need.get("GPU"), need["memory"]) for need in found] == [
        (4, 1, 2 * 2**30),
        (4, None, 2 * 2**30),
        (1, 1, 2 * 2**30),
    ]


def test_no_ray_and_no_cluster_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"--address 127.0.0.1:1: nothing answers there .*ray start --head"):
        with connected("127.0.0.1:1"):
            pass
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install clinsynth\[cluster\]"):
        with connected(None):
            pass


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"engine": "slurm"}, "--engine must be one of process, ray, got 'slurm'"),
        ({"address": "auto"}, "--address auto is about --engine ray"),
        ({"workers": 2}, "--workers 2 is about --engine ray"),
        ({"engine": "ray", "workers": 0}, "--workers must be at least 1, got 0"),
    ],
)
def test_wrong_flags_are_named(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerateImagesArguments(model="m", per_class=1, **flags)


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"train": {"gpu": 1}}, "resources: train: gpu is unknown; it takes cpus, gpus, memory_gb"),
        ({"train": {"cpus": -1}}, "resources: train: cpus must be at least 0, got -1"),
        ({"trian": {"cpus": 1}}, "resources: trian is no step of the recipe; it takes all, train, .*train ddpm"),
    ],
)
def test_wrong_resources_are_named(resources: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        plan(tmp_path, resources=resources)
