"""The Hub's rules for the metadata at the head of `README.md`, as far as its documentation states them."""

import re
from collections.abc import Iterable
from typing import Any

import yaml

LICENSES = (
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m "
    "afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 "
    "cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 "
    "cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 "
    "cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl "
    "gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr "
    "mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr "
    "deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 "
    "grok2-community gemma unknown other"
).split()
SIZES = ["n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B"]
COLORS = ["red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"]
REPO_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)?")
LISTS_OF_TEXT = ("tags", "task_categories", "task_ids", "annotations_creators", "language_creators", "multilinguality")
HEADER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|\Z)", re.DOTALL)


def read_metadata(content: str) -> Any:
    """The YAML at the head of a card, None where there is none or it is not YAML."""
    header = HEADER.match(content)
    try:
        return yaml.safe_load(header.group(1)) if header else None
    except yaml.YAMLError:
        return None


def check_card(content: str, kind: str) -> tuple[list[str], list[str]]:
    """What the Hub finds wrong with a card: (errors, warnings)."""
    header = HEADER.match(content)
    if header is None:
        missing = "configuration" if kind == "space" else "metadata"
        problem = f"empty or missing yaml {missing} in repo card"
        return ([problem], []) if kind == "space" else ([], [problem])
    try:
        card = yaml.safe_load(header.group(1))
    except yaml.YAMLError as error:
        return [f"YAML metadata is malformed: {str(error).splitlines()[0]}"], []
    if card is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(card, dict):
        return ["YAML metadata must be a mapping"], []
    checks = {"model": check_model, "dataset": check_dataset, "space": check_space}[kind]
    return [*check_common(card), *checks(card)], []


def check_common(card: dict[str, Any]) -> Iterable[str]:
    """What holds for every kind of repository."""
    licenses = card.get("license", [])
    for name in licenses if isinstance(licenses, list) else [licenses]:
        if name not in LICENSES:
            yield f'"license" must be one of the Hub\'s licence identifiers, got {name!r}'
    for name in LISTS_OF_TEXT:
        if name in card and not all(isinstance(one, str) for one in as_list(card[name])):
            yield f'"{name}" must be an array of strings'
    for name in ("datasets", "models", "base_model"):
        for one in as_list(card.get(name, [])):
            if not isinstance(one, str) or not REPO_ID.fullmatch(one):
                yield f'"{name}[0]" with value {one!r} is not valid: it must be the id of a repository'
    for one in as_list(card.get("language", [])):
        if not isinstance(one, str) or not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z]+)?|code|multilingual", one):
            yield f'"language" must be ISO 639 codes, got {one!r}'


def as_list(value: Any) -> list[Any]:
    """One value, or several, as a list."""
    return value if isinstance(value, list) else [value]


def check_model(card: dict[str, Any]) -> Iterable[str]:
    """Rules of model cards: names of library and task, and the results of `model-index`."""
    for name in ("library_name", "pipeline_tag"):
        if not isinstance(card.get(name, ""), str):
            yield f'"{name}" must be a string'
    index = card.get("model-index", [])
    if not isinstance(index, list):
        yield '"model-index" must be an array'
        return
    for i, model in enumerate(index):
        if not isinstance(model.get("name"), str):
            yield f'"model-index[{i}].name" is required'
        for j, result in enumerate(model.get("results") or []):
            yield from check_result(f"model-index[{i}].results[{j}]", result)


def check_result(where: str, result: dict[str, Any]) -> Iterable[str]:
    """Rules of one result of `model-index`."""
    required = [("task", "type"), ("dataset", "type"), ("dataset", "name")]
    for part, name in required:
        if not isinstance((result.get(part) or {}).get(name), str):
            yield f'"{where}.{part}.{name}" is required'
    metrics = result.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        yield f'"{where}.metrics" is required'
        return
    for k, metric in enumerate(metrics):
        if not isinstance(metric.get("type"), str) or "value" not in metric:
            yield f'"{where}.metrics[{k}]" needs "type" and "value"'


def check_dataset(card: dict[str, Any]) -> Iterable[str]:
    """Rules of dataset cards: size categories and configs."""
    for size in as_list(card.get("size_categories", [])):
        if size not in [*SIZES, "n>1T", "10B<n<100B", "100B<n<1T"]:
            yield f'"size_categories" must be among {SIZES}, got {size!r}'
    for i, config in enumerate(card.get("configs") or []):
        if not isinstance(config, dict) or not isinstance(config.get("config_name"), str):
            yield f'"configs[{i}].config_name" is required'
    info = card.get("dataset_info", [])
    for one in as_list(info):
        if not isinstance(one, dict):
            yield '"dataset_info" must be a mapping or an array of mappings'


def check_space(card: dict[str, Any]) -> Iterable[str]:
    """Rules of a space's configuration."""
    if card.get("sdk") not in ("gradio", "docker", "static"):
        yield f'"sdk" must be one of [gradio, docker, static], got {card.get("sdk")!r}'
    for name in ("colorFrom", "colorTo"):
        if card.get(name, "red") not in COLORS:
            yield f'"{name}" must be one of {COLORS}, got {card[name]!r}'
    if len(str(card.get("short_description", ""))) > 60:
        yield '"short_description" length must be less than or equal to 60 characters long'
    for name in ("sdk_version", "python_version"):
        if not re.fullmatch(r"\d+(\.\d+){0,2}", str(card.get(name, "1"))):
            yield f'"{name}" must be a version number, got {card[name]!r}'
    if not isinstance(card.get("app_file", ""), str):
        yield '"app_file" must be a string'
