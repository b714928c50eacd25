"""The card of a Space: the metadata that the Hub runs it by, and the words of its own README."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import SpaceCard, SpaceCardData

from clinsynth.hub_cards.render import render_card, repository_name
from clinsynth.private_words import HUB_ID

BANNER = "not for diagnosis"
GRADIO = re.compile(r"^gradio(?:\[[\w,]*\])?\s*[=~>]=\s*(\d+(?:\.\d+)*)", re.MULTILINE)


def space_card(
    space_folder: str | Path,
    models: Iterable[str] = (),
    datasets: Iterable[str] = (),
    *,
    repo_id: str | None = None,
) -> str:
    """README.md of a gradio Space: the header of its own README.md, completed, and its words.

    Args:
        space_folder: holds app.py, and where it likes README.md and requirements.txt.
        models, datasets: ids on the Hub of what it shows.
        repo_id: gives the title where the README has none.

    Raises:
        ValueError: there is no app, or a model or data set is no id, which could be a path of this machine.
    """
    folder, models, datasets = Path(space_folder), list(models), list(datasets)
    for name in (*models, *datasets):
        if not HUB_ID.fullmatch(name):
            raise ValueError(f"a Space names models and data sets by their ids, as me/retina-ddpm, got {name!r}")
    header, body = read_readme(folder)
    requirements = folder / "requirements.txt"
    written = {
        "title": repository_name(repo_id) or "Synthetic samples",
        "sdk": "gradio",
        "sdk_version": gradio_version(requirements),
        "app_file": "app.py",
        "license": "apache-2.0",
        **header,
    }
    if not (folder / written["app_file"]).exists():
        raise ValueError(f"{folder} is no Space: it lacks {written['app_file']}; give a folder like spaces/studio")
    for name, ids in (("models", models), ("datasets", datasets)):
        written[name] = list(dict.fromkeys([*(header.get(name) or []), *ids])) or None
    return render_card(
        "space.md",
        SpaceCardData(**written),
        title=written["title"],
        warn=BANNER not in body.lower(),
        body=body,
        models=written["models"] or [],
        datasets=written["datasets"] or [],
        requirements=requirements.exists(),
        app_file=written["app_file"],
    )


def read_readme(folder: Path) -> tuple[dict[str, Any], str]:
    """Metadata and words of the folder's README.md, both empty without one."""
    path = folder / "README.md"
    if not path.exists():
        return {}, ""
    card = SpaceCard(path.read_text(encoding="utf-8"))
    return card.data.to_dict(), card.text.strip()


def gradio_version(requirements: Path) -> str | None:
    """The version of gradio that requirements.txt asks for."""
    found = GRADIO.search(requirements.read_text(encoding="utf-8")) if requirements.exists() else None
    return found.group(1) if found else None
