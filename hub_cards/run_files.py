"""A run folder's own files: what a card may say of how something was made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clinsynth.private_words import describe_command, without_paths
from clinsynth.run_folder import read_json, read_metrics

NOT_SHOWN = set(
    "dataset model output_dir label_column text_column label_names push_to_hub hub_model_id dry_run log_steps "
    "report_to checkpointing_steps checkpoints_total_limit compile endpoint concurrency timeout_s send_real_texts "
    "task real synthetic cache_dir shard_size".split()
)
SHOWN_PACKAGES = ("clinsynth", "torch", "diffusers", "transformers", "datasets", "numpy")


@dataclass(frozen=True)
class RunFiles:
    """What lies in a run folder; what is missing is empty.

    Attributes:
        config: the resolved arguments, with paths as they were given.
        environment: command, versions, machine.
        step: name, seconds and more, where the run was a step of a study.
        metrics: the records of metrics.jsonl.
    """

    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    step: dict[str, Any]
    metrics: list[dict[str, Any]]

    @property
    def command(self) -> str | None:
        """The command line that made the run."""
        return describe_command(self.environment.get("command"), self.folder)

    def settings(self) -> dict[str, str]:
        """The resolved arguments that say how something was made, as text."""
        kept = {name: value for name, value in self.config.items() if name not in NOT_SHOWN and value is not None}
        if "dp_epsilon" not in kept:
            kept.pop("dp_max_grad_norm", None)
        return {name: str(value) for name, value in without_paths(kept).items() if value != ""}


def read_run(folder: Path) -> RunFiles:
    """The files of a run folder.

    Raises:
        ValueError: one of them is damaged.
    """
    config = folder / "config.yaml"
    return RunFiles(
        folder,
        (yaml.safe_load(config.read_text(encoding="utf-8")) or {}) if config.exists() else {},
        read_json(folder / "environment.json"),
        read_json(folder / "step.json"),
        read_metrics(folder),
    )


def describe_making(environment: dict[str, Any], step: dict[str, Any]) -> dict[str, str]:
    """Time, machine and versions, as far as they are known."""
    packages = environment.get("packages") or {}
    versions = ", ".join(f"{name} {packages[name]}" for name in SHOWN_PACKAGES if packages.get(name))
    python = f"Python {environment['python']}" if environment.get("python") else ""
    commit = environment.get("git_commit")
    rows = {
        "time": describe_time(step),
        "machine": environment.get("machine") or "",
        "software": ", ".join(part for part in (python, versions) if part),
        "commit of clinsynth": commit or "",
    }
    return {name: value for name, value in rows.items() if value}


def describe_time(step: dict[str, Any]) -> str:
    """`25 minutes, 18 minutes of processor time`; empty where it is not known of the whole run."""
    if not step.get("seconds") or step.get("resumed"):
        return ""
    cpu = f", {in_words(step['cpu_seconds'])} of processor time" if step.get("cpu_seconds") else ""
    return f"{in_words(step['seconds'])}{cpu}"


def in_words(seconds: float) -> str:
    """`48 s`, `25 minutes`, `3.2 hours`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"
