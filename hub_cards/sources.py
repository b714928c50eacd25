"""Where the real data come from, and what their licences ask of whatever is made from them.

A card carries the licence of the real data over. A source is known by the name of its file, folder or Hub id, by the
files in its folder, or by its class names, so that a renamed copy of a non-commercial set keeps its licence.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from clinsynth.plain_yaml import read_yaml
from clinsynth.private_words import describe_command, hub_id, last_part, without_paths
from clinsynth.run_folder import read_json, read_metrics

LICENSE_ID = re.compile(r"[a-z0-9][a-z0-9.+-]*")
NON_COMMERCIAL = {"nc", "noncommercial", "research", "amlr", "deepfloyd"}
HUB_DATA_URL = re.compile(r"https://huggingface\.co/datasets/([\w.-]+/[\w.-]+)/?")


@dataclass(frozen=True)
class Source:
    """A real data set. Empty is unknown.

    Attributes:
        name, what: its name, and in plain words what it holds.
        license: identifier of the Hub, as cc-by-4.0.
        url, citation: where it is published, and by whom.
        hub_id: owner/name, where it lies on the Hub.
        language: of texts, ISO 639-1.
        invented: drawn or written by a program: no patients.
    """

    name: str = ""
    what: str = ""
    license: str = ""
    url: str = ""
    citation: str = ""
    hub_id: str = ""
    language: str = ""
    invented: bool = False


def read_sources() -> list[tuple[Source, str, set[str], set[str]]]:
    """The sources of sources.yaml, each with its pattern, its files and its class names."""
    text = resources.files(__package__).joinpath("sources.yaml").read_text(encoding="utf-8")
    return [
        (Source(**known), pattern, set(files), set(classes))
        for known in yaml.safe_load(text)
        for pattern, files, classes in [(known.pop("pattern"), known.pop("files", ()), known.pop("classes", ()))]
    ]


KNOWN = read_sources()


def find_source(spec: str | None, folder: Path, labels: Collection[str] = ()) -> Source:
    """What is known of the data set that --dataset or --real `spec` named.

    Args:
        folder: of the run that used it, beside which a relative path is looked for.
        labels: its class names.
    """
    name = last_part(spec).lower() if spec else ""
    found = [source for source, pattern, _, _ in KNOWN if re.fullmatch(pattern, name)]
    found += [one for one, _, files, _ in KNOWN if spec and any((Path(spec) / file).exists() for file in files)]
    found += [source for source, _, _, classes in KNOWN if classes and classes == set(labels)]
    return replace(found[0] if found else Source(), hub_id=hub_id(spec, folder) or "")


def find_sources(specs: Collection[tuple[str | None, Path]], folder: Path, labels: Collection[str]) -> list[Source]:
    """The sources of those of `specs` (with the folders of the runs that used them) that are given, at least one."""
    given = [find_source(spec, near, labels) for spec, near in specs if spec]
    return given or [find_source(None, folder, labels)]


@dataclass
class Terms:
    """What the user says of the real data and of the licence; empty is not said."""

    data_name: str = ""
    """name of the real data, where the card does not know it"""
    data_url: str = ""
    """where the real data are published"""
    data_license: str = ""
    """licence of the real data, as cc-by-nc-4.0"""
    license: str = ""
    """licence of what is pushed; default: that of the real data"""
    license_override: str = ""
    """why it may be published under --license, although the real data's licence is non-commercial; is printed"""

    def __post_init__(self) -> None:
        for name in ("data_license", "license"):
            value = getattr(self, name)
            if value and not LICENSE_ID.fullmatch(value):
                raise ValueError(f"{name} must be an identifier of the Hub, as cc-by-nc-4.0 or other, got {value!r}")
        if self.license_override and not self.license:
            raise ValueError("license_override says why, but not what: give license= as well, as apache-2.0")

    def overrule(self, source: Source) -> Source:
        """The source with the user's words where there are some."""
        on_hub = HUB_DATA_URL.fullmatch(self.data_url)
        return replace(
            source,
            name=self.data_name or source.name,
            url=self.data_url or source.url,
            license=self.data_license or source.license,
            hub_id=on_hub.group(1) if on_hub else source.hub_id,
        )

    def card_license(self, sources: Collection[Source]) -> str:
        """The licence of what was made from `sources`; empty where nothing is known.

        Raises:
            ValueError: one of them is non-commercial, the card would not be, and nobody says why.
        """
        given = [source.license for source in sources if source.license]
        given += [self.data_license] if self.data_license else []
        restricted = next((name for name in given if is_non_commercial(name)), "")
        chosen = self.license or self.data_license or restricted or next(iter(given), "")
        if restricted and not is_non_commercial(chosen) and not self.license_override:
            raise ValueError(
                f"the real data are under {restricted}, which is non-commercial, and the card would say {chosen}; "
                'leave the licence out to carry it over, or give license= and license_override="why it may be"'
            )
        return chosen


def is_non_commercial(license_: str) -> bool:
    """Whether an identifier of the Hub, as cc-by-nc-sa-4.0, forbids commercial use."""
    return bool(NON_COMMERCIAL & set(license_.split("-")))


NOT_SHOWN = set(
    "dataset model output_dir label_column text_column label_names push_to_hub hub_model_id dry_run log_steps "
    "report_to checkpointing_steps checkpoints_total_limit compile endpoint concurrency timeout_s send_real_texts "
    "task real synthetic cache_dir shard_size engine address workers".split()
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
        ValueError: one is damaged.
    """
    config = folder / "config.yaml"
    return RunFiles(
        folder,
        (read_yaml(config) or {}) if config.exists() else {},
        read_json(folder / "environment.json"),
        read_json(folder / "step.json"),
        read_metrics(folder),
    )


def describe_making(environment: dict[str, Any], step: dict[str, Any]) -> dict[str, str]:
    """Time, machine and versions, as far as they are known."""
    packages = environment.get("packages") or {}
    versions = ", ".join(f"{name} {packages[name]}" for name in SHOWN_PACKAGES if packages.get(name))
    python = f"Python {environment['python']}" if environment.get("python") else ""
    rows = {
        "time": describe_time(step),
        "machine": environment.get("machine"),
        "software": ", ".join(filter(None, (python, versions))),
        "commit of clinsynth": environment.get("git_commit"),
    }
    return {name: value for name, value in rows.items() if value}


def describe_time(step: dict[str, Any]) -> str:
    """`25 minutes, 18 minutes of processor time`; empty where it is not known of the whole run."""
    if not step.get("seconds") or step.get("resumed"):
        return ""
    cpu = f", {exact_duration(step['cpu_seconds'])} of processor time" if step.get("cpu_seconds") else ""
    return f"{exact_duration(step['seconds'])}{cpu}"


def exact_duration(seconds: float) -> str:
    """`48 s`, `25 minutes`, `3.2 hours`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"
