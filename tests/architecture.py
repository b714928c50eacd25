"""The architecture in numbers, read off the syntax trees: `python tests/architecture.py`.

Prints files and lines, import circles, imports against the direction of docs/architecture.md, and arrows between rooms
that run back up; with `--path`, also the files whose functions are given the arguments of `clinsynth generate images`
before its first image, and how often these come back to a file already left.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import FrameType

REPOSITORY = Path(__file__).parent.parent
INSTALLED = ("pipelines", "trainers", "metrics", "hub_cards", "scripts")
"""Folders at the top that are installed as sub-packages of clinsynth."""
ROOMS = ("core", "data", "models", "metrics", "judges", "synthesis", "trainers")
"""Each imports from those before it, and from itself."""
LAST = ("study", "reports", "hub_cards", "hub")
"""They come after ROOMS, and import from each other without a circle."""


def python_files() -> list[Path]:
    """All of the project but its tests, by paths from the repository's root."""
    listed = ["git", "-C", str(REPOSITORY), "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
    return [Path(name) for name in names if not name.startswith("tests/") and (REPOSITORY / name).exists()]


def module_name(path: Path) -> str:
    """`trainers/gan/step.py` to `clinsynth.trainers.gan.step`."""
    parts = path.with_suffix("").parts
    parts = ("clinsynth", *parts) if parts[0] in INSTALLED else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The room that a module of clinsynth stands in; of what is no part of it, the folder."""
    parts = module.split(".")
    if parts[0] != "clinsynth":
        return parts[0]
    known = {*ROOMS, *LAST, "pipelines", "scripts"}
    return parts[1] if len(parts) > 2 and parts[1] in known else "core"


def imported(path: Path, module: str) -> Iterator[str]:
    """Names of modules, and of what is taken from them, that a file imports, wherever the statement stands in it."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def import_graph() -> dict[str, set[str]]:
    """Each module to the modules of the project that it imports; packages' own files count as none."""
    files = {module_name(path): path for path in python_files()}
    plain = {name for name, path in files.items() if path.name != "__init__.py"}
    return {name: set(imported(path, name)) & plain - {name} for name, path in files.items()}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one import circle, in order; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def may_import(room: str, other: str) -> bool:
    """Whether the direction of imports lets a module of `room` import one of `other`."""
    if room == "pipelines":
        return other == "pipelines"
    if other == "pipelines" or room not in (*ROOMS, *LAST):  # commands, Spaces and benchmarks use everything
        return True
    if other not in (*ROOMS, *LAST):
        return False
    return room in LAST if other in LAST else room in LAST or ROOMS.index(other) <= ROOMS.index(room)


def against_direction(graph: dict[str, set[str]]) -> list[str]:
    """`a -> b` for each import that the direction does not allow; the command line may name every command."""
    return sorted(
        f"{name} -> {other}"
        for name, targets in graph.items()
        for other in targets
        if name != "clinsynth.cli" and not may_import(room_of(name), room_of(other))
    )


def room_arrows(graph: dict[str, set[str]]) -> tuple[int, int]:
    """How many pairs of rooms import from each other in some direction, and how many of these arrows run back up."""
    order = [*ROOMS, *LAST, "scripts"]
    pairs = {(room_of(name), room_of(other)) for name, targets in graph.items() for other in targets}
    arrows = {(a, b) for a, b in pairs if a != b and a in order and b in order}
    back = {(a, b) for a, b in arrows if order.index(b) > order.index(a) and not (a in LAST and b in LAST)}
    return len(arrows), len(back)


def path_to_first_image(folder: Path) -> list[str]:
    """The files whose functions hold the arguments of `generate images`, one after the other, until the pipeline is
    called: the way of somebody who asks what a flag does."""
    sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]
    from helpers import tiny_pipeline

    from clinsynth import cli

    tiny_pipeline().save_pretrained(folder / "model")
    passed: list[str] = []

    class FirstImageError(Exception):
        """The pipeline was called."""

    def note(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename).resolve()  # behind the links of the editable install
        if event != "call" or not path.is_relative_to(REPOSITORY):
            return
        name = path.relative_to(REPOSITORY).as_posix()
        if name.startswith((".venv", "<")):
            return
        if "pipelines/" in name and frame.f_code.co_name == "__call__":
            raise FirstImageError
        given = any(type(value).__name__.endswith("Arguments") for value in frame.f_locals.values())
        if given and passed[-1:] != [name]:
            passed.append(name)

    words = ["--model", str(folder / "model"), "--per_class", "1", "--num_inference_steps", "1"]
    sys.argv = ["clinsynth", "generate", "images", *words, "--output_dir", str(folder / "set")]
    sys.setprofile(note)
    try:
        cli.main()
    except FirstImageError:
        pass
    finally:
        sys.setprofile(None)
    return passed


def main() -> None:
    """Print the numbers."""
    graph = import_graph()
    files = python_files()
    lines = sum(len((REPOSITORY / path).read_text(encoding="utf-8").splitlines()) for path in files)
    against = against_direction(graph)
    arrows, back = room_arrows(graph)
    print(f"{len(files)} files without tests, {lines} lines")
    print(f"import circle: {' -> '.join(circle(graph)) or 'none'}")
    print(f"imports against the direction: {len(against)}", *against, sep="\n  ")
    print(f"arrows between rooms: {arrows}, of which {back} run back up")
    if "--path" in sys.argv:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            passed = path_to_first_image(Path(folder))
        print(f"generate images: {len(set(passed))} files, {len(passed) - len(set(passed))} times back to one left")
        print(*passed, sep="\n")


if __name__ == "__main__":
    main()
