"""Which files of a folder are published: those known to belong to a checkpoint, a metric or a Space, and no others.

A list of what may leave is safe where a list of what must stay is not: a run folder also holds optimizer states, the
images of validation, and whatever somebody has put there.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from clinsynth.hub_cards.checkpoint import TEXT_TO_IMAGE_FILE
from clinsynth.private_words import HUB_ID, hub_id, shorten
from clinsynth.run_folder import read_json

WEIGHTS = r"(?:model|diffusion_pytorch_model)(?:-\d{5}-of-\d{5})?\.safetensors(?:\.index\.json)?"
COMPONENT = re.compile(rf"config\.json|scheduler_config\.json|{WEIGHTS}")
LANGUAGE_MODEL = re.compile(
    rf"config\.json|generation_config\.json|task\.json|{WEIGHTS}|tokenizer\.json|tokenizer\.model|tokenizer_config\.json"
    r"|special_tokens_map\.json|added_tokens\.json|vocab\.json|vocab\.txt|merges\.txt|chat_template\.jinja"
)
METRIC = re.compile(r"[a-z]\w*\.py|requirements\.txt")
SPACE = re.compile(
    r"(?:\w+/)*\w+\.(?:py|css|js|svg|jinja)|(?:requirements|packages|pre-requirements)\.txt"
    r"|checklists/[\w-]+\.yaml"
)
NOT_SPACE = re.compile(r"(?:^|/)(?:tests?/|test_|__pycache__/)")
LORA_FILES = ("learned_embeds.safetensors", "pytorch_lora_weights.safetensors")
OF_PACKAGE = re.compile(r"(?:\w+/)*\w[\w.]*\.(?:py|jinja|yaml)")
SUB_PACKAGES = ("pipelines", "trainers", "hub_cards", "metrics", "scripts")
RECIPES = ("tasks", "checklists")
IMPORTS = re.compile(r"^\s*(?:from|import) clinsynth\b", re.MULTILINE)
REPLACED = {
    "model": r"samples\.png|(?:[\w-]+/)?(?:[\w.-]+\.safetensors(?:\.index\.json)?|[\w]+\.py)",
    "dataset": r"(?:[A-Za-z0-9][\w-]*/)?(?:data/[^/]*\.parquet|samples\.png|generation\.json|evidence\.json)",
    "metric": r"\w+\.py|requirements\.txt",
    "space": r"(?:\w+/)*[\w.]+\.(?:py|css|js|svg|jinja)"
    r"|(?:clinsynth(?:/\w+)+|checklists)/[\w-]+\.yaml",
}
"""What an earlier push may have left in a repository, which goes where it is not among the files of the next."""


def model_files(folder: Path) -> list[str]:
    """Paths of a checkpoint's files: what its pipeline's index or its configuration names.

    Raises:
        ValueError: there is no finished checkpoint, or it lacks its weights or its code.
    """
    index, config = (read_json(folder / name) for name in ("model_index.json", "config.json"))
    if (folder / TEXT_TO_IMAGE_FILE).exists():  # the base model is not among them
        found = [TEXT_TO_IMAGE_FILE, *(name for name in LORA_FILES if (folder / name).exists())]
    elif index:
        found = ["model_index.json", *pipeline_files(folder, index)]
    elif config:
        names = sorted(path.name for path in folder.iterdir() if LANGUAGE_MODEL.fullmatch(path.name))
        found = [*names, *with_imports(folder, named_modules(config))]
    else:
        raise ValueError(
            f"{folder} holds no finished checkpoint (model_index.json, or config.json); give the --output_dir of a "
            "training run that has ended"
        )
    if not any(path.endswith(".safetensors") for path in found):
        raise ValueError(f"{folder} holds no weights (.safetensors); copy it anew, or finish its training run")
    return found


def pipeline_files(folder: Path, index: dict[str, Any]) -> Iterator[str]:
    """Files that a diffusers `model_index.json` names: the code, and in each component's folder its own."""
    yield from with_imports(folder, module_of(index.get("_class_name")))
    for name, value in sorted(index.items()):
        part = folder / name
        if not name.isidentifier() or name.startswith("_") or not isinstance(value, list) or not part.is_dir():
            continue
        yield from (f"{name}/{path.name}" for path in sorted(part.iterdir()) if COMPONENT.fullmatch(path.name))
        if any((part / f"{module}.py").exists() for module in module_of(value)):
            yield from (f"{name}/{path}" for path in with_imports(part, module_of(value)))


def module_of(value: object) -> list[str]:
    """The module that an entry [module, class] of the index names, which may lie beside it; none of another form."""
    match value:
        case [str(module), str()] if module.isidentifier():
            return [module]
    return []


def named_modules(config: dict[str, Any]) -> list[str]:
    """Modules of a transformers `config.json` whose code lies beside it."""
    pipelines = [task["impl"] for task in (config.get("custom_pipelines") or {}).values()]
    classes = [name for name in (config.get("auto_map") or {}).values() if isinstance(name, str)]
    return [name.partition(".")[0] for name in (*pipelines, *classes) if "--" not in name]


def with_imports(folder: Path, modules: Iterable[str]) -> list[str]:
    """The files of modules in `folder`, and of what they import from beside them."""
    waiting, found = list(modules), dict[str, None]()
    while waiting:
        name = f"{waiting.pop()}.py"
        if name in found:
            continue
        path = folder / name
        if not path.exists():
            raise ValueError(f"{folder} lacks {name}, without which nobody can load it; copy it anew")
        found[name] = None
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                waiting += [node.module] if node.module else [alias.name for alias in node.names]
    return sorted(found)


def metric_files(folder: Path) -> list[str]:
    """The code of a metric, without its tests."""
    names = sorted(path.name for path in folder.iterdir() if METRIC.fullmatch(path.name))
    return [name for name in names if not name.startswith("test_")]


def space_files(folder: Path) -> list[str]:
    """The code of a Space and what its app shows; hidden folders, caches and tests are not among it."""
    paths = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in paths if SPACE.fullmatch(path) and not NOT_SPACE.search(path)]


def content_of(path: Path) -> bytes | Path:
    """What is sent of a file: itself, but a configuration without the folder that it or its base was loaded from."""
    if path.name not in ("config.json", "model_index.json", TEXT_TO_IMAGE_FILE):
        return path
    values = read_json(path)
    if path.name == TEXT_TO_IMAGE_FILE:
        values["base"] = hub_id(values["base"], path.parent) or shorten(values["base"])
    elif HUB_ID.fullmatch(str(values.get("_name_or_path") or "a/b")):
        return path
    else:
        del values["_name_or_path"]
    return f"{json.dumps(values, indent=2, ensure_ascii=False)}\n".encode()


def is_importing_clinsynth(path: Path) -> bool:
    """Whether the code in a file needs the package."""
    return path.suffix == ".py" and bool(IMPORTS.search(path.read_text(encoding="utf-8")))


def package_files() -> dict[str, Path]:
    """The files of the package clinsynth by their paths in an installation, whether it is one or a checkout.

    Code, templates, tasks and checklists; nothing else that may lie in these folders.
    """
    import clinsynth

    root = Path(clinsynth.__file__).parent
    folders = {"clinsynth": root}
    for name in SUB_PACKAGES:
        spec = importlib.util.find_spec(f"clinsynth.{name}")
        assert spec is not None and spec.submodule_search_locations, name
        folders[f"clinsynth/{name}"] = Path(spec.submodule_search_locations[0])
    found: dict[str, Path] = {}
    for name, folder in folders.items():
        paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        found |= {f"{name}/{path}": file for path, file in paths.items() if OF_PACKAGE.fullmatch(path)}
    for name in RECIPES:
        for folder in (root / "recipes" / name, root.parent / "recipes" / name):
            found |= {f"clinsynth/recipes/{name}/{path.name}": path for path in folder.glob("*.yaml")}
    return dict(sorted(found.items()))
