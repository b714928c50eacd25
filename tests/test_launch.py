"""The launch files: what accelerate, Slurm and `hf jobs run` are told. Slurm's own commands are stood in for."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from helpers import REPOSITORY

from clinsynth.arguments import parse
from clinsynth.scripts.study import recipe_first
from clinsynth.study.arguments import StudyArguments

LAUNCH = REPOSITORY / "recipes" / "launch"
STAND_INS = {
    "srun": 'shift; SLURM_NODEID=1 exec "$@"',
    "ray": 'echo "ray $*" >> said',
    "scontrol": 'echo "scontrol $*" >> said; [ "$1" = show ] && printf "node-a\\nnode-b\\n" || true',
    "python": 'trap "echo over >> said; exit 1" TERM; echo "python $*" >> said\n[ ! -e slow ] || sleep 9 & wait $!',
    "accelerate": 'echo "accelerate $*" >> said',
}


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on two nodes of four GPUs, whose commands write down what they are given."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in STAND_INS.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    slurm = {"SUBMIT_DIR": tmp_path, "GPUS_ON_NODE": 4, "JOB_NUM_NODES": 2, "JOB_ID": 7, "JOB_NODELIST": "node-[a-b]"}
    environment = {f"SLURM_{name}": str(value) for name, value in slurm.items()}
    return os.environ | environment | {"PATH": f"{folder}:{os.environ['PATH']}"}


def submit(cluster: dict[str, str], words: str, file: str = "slurm.sbatch") -> list[str]:
    """What the stand-ins of a job that ends by itself wrote down."""
    subprocess.run(["bash", LAUNCH / file, *words.split()], env=cluster, check=True, timeout=60)
    return (Path(cluster["SLURM_SUBMIT_DIR"]) / "said").read_text().splitlines()


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("multi_*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_each_configuration(path: Path) -> None:
    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig) and config.num_processes >= 2 and not config.use_cpu
    assert config.mixed_precision == "no" and (config.num_machines > 1) == ("node" in path.stem)
    text = path.read_text()
    command = next(line for line in text.replace("\\\n#", "").splitlines() if "accelerate launch" in line)
    assert f"--config_file recipes/launch/{path.name}" in command
    words = command.partition("accelerate launch ")[2].replace("…", "").split()
    args = launch_command_parser().parse_args(words)
    assert args.module and args.training_script == "clinsynth"


def test_slurm_starts_a_process_for_each_gpu_of_all_nodes(cluster: dict[str, str]) -> None:
    asked, started = submit(cluster, "train ddpm --output_dir runs/retina")
    assert asked == "scontrol show hostnames node-[a-b]"
    words = started.removeprefix("accelerate launch ").split()
    args = launch_command_parser().parse_args(words)
    assert (args.num_machines, args.num_processes, args.machine_rank) == (2, 8, 1)
    assert (args.main_process_ip, args.main_process_port, args.rdzv_backend) == ("node-a", 20007, "c10d")
    assert args.multi_gpu and args.module and args.training_script == "clinsynth"
    assert args.training_script_args == ["train", "ddpm", "--output_dir", "runs/retina"]


def test_slurm_starts_one_process_for_a_study_and_for_one_gpu(cluster: dict[str, str]) -> None:
    assert submit(cluster, "study recipes/retina_gpu.yaml") == ["python -m clinsynth study recipes/retina_gpu.yaml"]
    one = cluster | {"SLURM_GPUS_ON_NODE": "1", "SLURM_JOB_NUM_NODES": "1"}
    assert submit(one, "train gan")[-1] == "python -m clinsynth train gan"


def test_a_job_whose_time_is_up_goes_into_the_queue_again(cluster: dict[str, str]) -> None:
    folder = Path(cluster["SLURM_SUBMIT_DIR"])
    (folder / "slow").touch()
    job = subprocess.Popen(["bash", LAUNCH / "slurm.sbatch", "study", "a.yaml"], env=cluster, start_new_session=True)
    end = time.monotonic() + 30
    while not (folder / "said").exists():
        assert time.monotonic() < end, "the command never started"
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=15) == 0
    assert (folder / "said").read_text().splitlines()[1:] == ["scontrol requeue 7", "over"]


def test_a_failed_command_fails_the_job(cluster: dict[str, str]) -> None:
    (Path(cluster["SLURM_SUBMIT_DIR"]) / "bin" / "python").write_text("#!/bin/bash\nexit 3\n")
    ended = subprocess.run(["bash", LAUNCH / "slurm.sbatch", "study", "a.yaml"], env=cluster)
    assert ended.returncode == 3
    ended = subprocess.run(["bash", LAUNCH / "slurm.sbatch"], env=cluster, capture_output=True, text=True)
    assert ended.returncode == 2 and "name a command of clinsynth" in ended.stderr


def symmetric_run(words: list[str]) -> tuple[dict[str, object], StudyArguments]:
    """What Ray understands of the words after `ray symmetric-run`, and clinsynth of those behind `--`."""
    module = pytest.importorskip("ray.scripts.symmetric_run", reason="needs the packages of clinsynth[cluster]")
    split = words.index("--")
    options, command = words[:split], words[split + 1 :]
    known = module.symmetric_run.make_context("ray symmetric-run", [*options[:4], "--", *command]).params
    start = ray_start().make_context("ray start", options[4:]).params
    study = command[command.index("study") + 1 :]
    return {**start, **{name: known[name] for name in ("address", "min_nodes")}}, parse_study(study)


def ray_start() -> Any:
    """Ray's command `start`, whose options `symmetric-run` takes too."""
    from ray.scripts.scripts import start

    return start


def parse_study(words: list[str]) -> StudyArguments:
    return parse(StudyArguments, recipe_first([str(REPOSITORY / words[0]), *words[1:]]))


def test_slurm_forms_a_ray_cluster_for_a_study(cluster: dict[str, str]) -> None:
    cluster = cluster | {"SLURM_CPUS_PER_TASK": "16"}
    _, started = submit(cluster, "study recipes/phantom.yaml --output_dir runs/a", "ray_slurm.sbatch")
    known, study = symmetric_run(started.removeprefix("ray symmetric-run ").split())
    assert (known["address"], known["min_nodes"]) == ("node-a:20007", 2)
    assert (known["num_cpus"], known["num_gpus"]) == (16, 4)
    assert (study.engine, study.address, study.output_dir) == ("ray", "auto", "runs/a")


def test_skypilot_starts_a_study_on_all_machines() -> None:
    task = yaml.safe_load((LAUNCH / "ray_sky.yaml").read_text())
    assert set(task) == {"name", "num_nodes", "resources", "file_mounts", "workdir", "envs", "setup", "run"}
    for script in (task["setup"], task["run"]):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    values = {**task["envs"], "first": "10.0.0.1", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NUM_GPUS_PER_NODE": "1"}
    text = re.sub(r"\$(\w+)", lambda found: values[found[1]], task["run"].partition("ray symmetric-run ")[2])
    known, study = symmetric_run(shlex.split(text.replace("\\\n", " ")))
    assert (known["address"], known["min_nodes"], known["num_gpus"]) == ("10.0.0.1:6390", 2, 1)
    assert study.engine == "ray" and study.output_dir.startswith(next(iter(task["file_mounts"])))


def test_kuberay_gives_all_pods_one_image_and_one_volume() -> None:
    job = yaml.safe_load((LAUNCH / "ray_kubernetes.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    first, second, recipe, *rest = shlex.split(job["spec"]["entrypoint"])
    study = parse_study(["recipes/phantom.yaml", *rest])
    assert (first, second, study.engine, study.address) == ("clinsynth", "study", "ray", "auto")
    cluster = job["spec"]["rayClusterSpec"]
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    specs = [pod["template"]["spec"] for pod in pods]
    assert len({container["image"] for spec in specs for container in spec["containers"]}) == 1
    for spec in specs:
        (volume,), (container,) = spec["volumes"], spec["containers"]
        (mount,) = container["volumeMounts"]
        assert mount["name"] == volume["name"] and volume["persistentVolumeClaim"]["claimName"] == "clinsynth-runs"
        assert study.output_dir.startswith(mount["mountPath"]) and recipe.startswith(mount["mountPath"])
        assert container["resources"]["requests"] == container["resources"]["limits"]
    pinned = dict(line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().split() if "==" in line)
    assert cluster["rayVersion"] == pinned["ray"]


def test_hf_jobs_takes_every_flag_and_shows_no_token() -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment |= {"HF_TOKEN": "hf_secretsecretsecret", "BUCKET": "me/runs", "DRY_RUN": "1", "FLAVOR": "a100x4"}
    command = ["bash", LAUNCH / "hf_jobs.sh", "train", "ddpm", "--dataset", "me/retina", "--output_dir", "/runs/a"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert "not submitted" in ended.stdout and "hf_secret" not in ended.stdout + ended.stderr
    for words in ("a100x4", "hf://buckets/me/runs:/runs:rw", "HF_TOKEN=***", "train ddpm --dataset me/retina"):
        assert words in ended.stdout
    del environment["BUCKET"]
    refused = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert refused.returncode == 2 and "BUCKET is not set" in refused.stderr


def test_the_readme_names_every_file() -> None:
    text = (LAUNCH / "README.md").read_text()
    assert all(f"[{path.name}]({path.name})" in text for path in LAUNCH.iterdir() if path.name != "README.md")
