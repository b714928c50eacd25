"""The YAML files of recipes/ that are called by name: recipes/tasks/<name>.yaml, recipes/checklists/<name>.yaml."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
ROOTS = (HERE / "recipes", HERE.parent / "recipes")
"""Where recipes lie: in the installed package, and in a checkout."""


def recipe_names(kind: str) -> list[str]:
    """The files of recipes/`kind` that come with clinsynth."""
    return sorted({path.stem for root in ROOTS for path in (root / kind).glob("*.yaml")})


def find_recipe(kind: str, flag: str, name: str) -> Path:
    """The file that is called `name`, or the user's .yaml file `name` itself.

    Raises:
        ValueError: there is none; names the flag `flag`, the value and what there is.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ValueError(f"{flag} {name}: there is no such file; check the path")
        return Path(name)
    names = recipe_names(kind)
    for root in ROOTS:
        if name in names and (root / kind / f"{name}.yaml").is_file():
            return root / kind / f"{name}.yaml"
    raise ValueError(f"{flag} {name!r} is unknown; give {', '.join(names)} or the path of a .yaml file")
