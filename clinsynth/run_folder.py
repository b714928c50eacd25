"""The run folder: what a command leaves behind, and how starting it again finds it.

    config.yaml        the resolved arguments, a valid `--config` file
    environment.json   command, package versions, git commit, machine
    metrics.jsonl      one JSON record a line

Every file is complete or absent: it is written aside, then renamed.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from clinsynth.plain_yaml import parse_yaml, read_yaml
from clinsynth.processes import GONE, OLD, lock_folder, recover
from clinsynth.withheld import without_withheld

if TYPE_CHECKING:
    import numpy as np

MADE_ANEW = "delete it, and the same command makes it anew"
NO_ROOM = ("No space left on device", "Disk quota exceeded", "File too large")
PACKAGES = "clinsynth torch diffusers transformers trl peft accelerate datasets huggingface_hub numpy".split()


def atomic_write(path: str | Path, data: str | bytes) -> None:
    """Write `data` (text as UTF-8) to `path`, which is afterwards complete or, if this process dies, unchanged."""
    with written_aside(Path(path)) as aside, open(aside, "wb") as file:
        file.write(without_withheld(data).encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a file to write, which takes the place of `path` when the block ends without an error."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with explained_where_full(path):
            yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def explained_where_full(path: Path) -> Iterator[None]:
    """A full disk within the block becomes a ValueError that names `path` and a hint, whatever library met it."""
    try:
        yield
    except Exception as error:  # safetensors and others have types of their own for it
        if isinstance(error, ValueError) or not any(sign in str(error) for sign in NO_ROOM):
            raise
        raise ValueError(
            f"{path} cannot be written ({error}); what was finished before is kept: make room and start the same "
            "command again"
        ) from error


@contextmanager
def explained_where_damaged(path: Path, hint: str) -> Iterator[None]:
    """A file of an earlier run that cannot be read within the block, of safetensors or JSON, becomes a ValueError that
    names `path` and `hint`."""
    from safetensors import SafetensorError

    try:
        yield
    except (FileNotFoundError, SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}); {hint}") from error


@contextmanager
def complete_folder(path: str | Path) -> Iterator[Path]:
    """Yield a folder to write into, which becomes `path` (replacing it) when the block ends without an error."""
    path = Path(path)
    aside, old = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}{OLD}")
    recover(old)
    shutil.rmtree(aside, ignore_errors=True)
    with explained_where_full(path):
        aside.mkdir(parents=True)
        yield aside
    if path.exists():
        os.replace(path, old)
    os.replace(aside, path)
    shutil.rmtree(old, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Delete a folder: whatever happens meanwhile, under its name stands all of it or nothing."""
    gone = path.with_name(f".{path.name}{GONE}")
    shutil.rmtree(gone, ignore_errors=True)
    os.replace(path, gone)
    shutil.rmtree(gone, ignore_errors=True)


def create_run_folder(path: str | Path, flag: str = "output_dir") -> Path:
    """Create the folder `path`, which the flag of this name gave, and make sure that it can be written to.

    An --output_dir belongs to this process from then on; caches may be shared.

    Raises:
        ValueError: `path` is a file, or the folder cannot be written to, or another process is writing there.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable.{os.getpid()}"  # every process of a run looks for itself
        atomic_write(probe, "")
        probe.unlink(missing_ok=True)
        if flag == "output_dir":
            lock_folder(path, flag)
    except OSError as error:
        raise ValueError(
            f"--{flag} {path} cannot be written to ({error.strerror}); name another folder or make room there"
        ) from error
    return path


def write_run_config(output_dir: Path, arguments: Any) -> None:
    """Write `config.yaml` (the fields of the dataclass `arguments`) and `environment.json` into `output_dir`."""
    atomic_write(output_dir / "config.yaml", config_yaml(arguments))
    atomic_write(output_dir / "environment.json", json.dumps(describe_environment(), indent=2) + "\n")


def config_yaml(arguments: Any) -> str:
    """The fields of the dataclass `arguments` as YAML that `--config` takes."""
    return yaml.safe_dump(dataclasses.asdict(arguments), sort_keys=False)


def describe_environment() -> dict[str, Any]:
    """Command, Python and package versions, git commit of the code (None outside a checkout) and machine."""
    return {
        # as a user would type it: `python -m clinsynth` is called __main__.py
        "command": [Path(sys.argv[0]).name.replace("__main__.py", "clinsynth"), *sys.argv[1:]],
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "git_commit": git_commit(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
    }


@functools.cache
def package_version(name: str) -> str | None:
    """The installed version of package `name`, None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def git_commit() -> str | None:
    """The commit of the checkout that this code runs from, with `+changes` where files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+changes" if changes.strip() else commit


def check_same_run(output_dir: Path, arguments: Any, may_differ: frozenset[str]) -> None:
    """Refuse to continue a run folder whose `config.yaml` has other settings than `arguments`.

    Raises:
        ValueError: a field outside `may_differ` differs; names the field and both values.
    """
    path = output_dir / "config.yaml"
    if not path.exists():
        return
    before: dict[str, Any] = read_yaml(path) or {}
    now = parse_yaml(config_yaml(arguments))
    binding = [name for name in now if name in before and name not in may_differ]
    check_unchanged(
        output_dir,
        {f"--{name}": before[name] for name in binding},
        {f"--{name}": now[name] for name in binding},
        "give it the same value to go on, or another --output_dir to start anew",
    )


def check_unchanged(
    folder: Path,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    hint: str = "give another --output_dir",
) -> None:
    """Refuse to go on in the `folder` of a run that other settings or contents began.

    Args:
        before: what the folder keeps of its beginning; empty where nothing has begun.
        now: what it has to agree with. A name that `before` lacks counts as None there.
        hint: what the user can do.

    Raises:
        ValueError: a value differs; names it and both values.
    """
    for name, value in now.items() if before else ():
        if before.get(name) != value:
            raise ValueError(
                f"--output_dir {folder} was begun with {name} {before.get(name)!r}, not {value!r}; {hint}"
            )


def read_json(path: Path, hint: str = "copy it anew, or start its command again") -> dict[str, Any]:
    """A JSON object, empty where there is no such file.

    Raises:
        ValueError: it is damaged.
    """
    if not path.exists():
        return {}
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); {hint}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged (it holds a {type(values).__name__}, no names and values); {hint}")
    return values


class Kept:
    """What a command has finished, so that it need not be done again when the command is started anew.

    A JSON file from key to value, rewritten whole after each. A key holds all that its value depends on, or a hash of
    it: where an input has changed the key has, too, and the value is made anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with explained_where_damaged(path, MADE_ANEW):
            self.values: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """What is kept under `key`, else the JSON-able value of `compute()`, which is then kept."""
        if key not in self.values:
            self.values[key] = compute()
            atomic_write(self.path, json.dumps(self.values, indent=1) + "\n")
        return self.values[key]


def kept_arrays(path: Path, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays in the safetensors file `path`, whose name holds all that they depend on; else those of `compute()`,
    which are then kept there.

    Raises:
        ValueError: the file is damaged.
    """
    import numpy as np
    from safetensors.numpy import load_file, save

    if path.exists():
        with explained_where_damaged(path, MADE_ANEW):
            return load_file(path)
    arrays = {name: np.ascontiguousarray(values) for name, values in compute().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, save(arrays))
    return arrays


def append_metrics(output_dir: Path, record: dict[str, Any]) -> None:
    """Append `record` as one line of `metrics.jsonl`."""
    path = output_dir / "metrics.jsonl"
    with explained_where_full(path), open(path, "a") as file:
        file.write(without_withheld(json.dumps(record)) + "\n")


def read_metrics(output_dir: Path) -> list[dict[str, Any]]:
    """The records of `metrics.jsonl`; a last line that a killed process left unfinished is passed over.

    Raises:
        ValueError: another line is damaged.
    """
    path = output_dir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    try:
        records = [json.loads(line) for line in lines[:-1]]
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); copy it anew, or start its command again") from error
    with suppress(json.JSONDecodeError):
        records += [json.loads(line) for line in lines[-1:]]
    return records


def drop_metrics_after(output_dir: Path, step: int) -> None:
    """Remove the records of steps later than `step`, which a resumed run is about to write again."""
    kept = [json.dumps(record) + "\n" for record in read_metrics(output_dir) if record["step"] <= step]
    atomic_write(output_dir / "metrics.jsonl", "".join(kept))
