"""The launch files: what accelerate, Slurm and `hf jobs run` are told. Slurm's own commands are stood in for."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command_parser

LAUNCH = Path(__file__).parent.parent / "recipes" / "launch"
STAND_INS = {
    "srun": 'shift; SLURM_NODEID=1 exec "$@"',
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


def submit(cluster: dict[str, str], words: str) -> list[str]:
    """What the stand-ins of a job that ends by itself wrote down."""
    subprocess.run(["bash", LAUNCH / "slurm.sbatch", *words.split()], env=cluster, check=True, timeout=60)
    return (Path(cluster["SLURM_SUBMIT_DIR"]) / "said").read_text().splitlines()


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.yaml")), ids=lambda path: path.stem)
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
