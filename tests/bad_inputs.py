"""Bad inputs in one table: which are read, refused with a sentence, lose rows, fail with a traceback, or take memory.

    python -m tests.bad_inputs
    python -m tests.bad_inputs "hostile .npz"          # the groups with this in their names alone

Each is read in a fork of its own. The oddities of texts and files are those of `test_data_matrix`, the hostile files
those of `benchmarks.hostile`.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import resource
import sys
import tempfile
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.hostile import hostile_files
from clinsynth.plain_yaml import read_yaml
from tests.test_data_matrix import ENDINGS, FILES, ODDITIES, SOURCES, outcome, place_file, plain

sys.path.insert(0, str(Path(__file__).parent.parent / "spaces" / "studio"))
READ, REFUSED, LOST, TRACEBACK = "read", "refused", "rows lost", "traceback"
SECONDS = 120
Case = tuple[str, str, Callable[[Path], str]]


def cases() -> Iterator[Case]:
    """What is tried: its group, its kind, and what has it read in an empty folder; says what came of it."""
    for source, (name, write) in SOURCES.items():
        for oddity, alter in ODDITIES.items():
            yield (
                f"texts as {source}",
                oddity,
                lambda folder, *a, n=name, w=write, o=alter: odd(folder / n, w, o(plain())),
            )
    for ending in ENDINGS:
        for kind, content in FILES.items():
            yield f"files called {ending}", kind, lambda folder, e=ending, c=content: file_of(folder / "set", e, c)
    for kind, ending, content in hostile_files():
        for reader, read in READERS[ending].items():
            yield (
                f"hostile .{ending}, {reader}",
                kind,
                lambda folder, e=ending, c=content, r=read: r(folder / "set", e, c),
            )


def odd(path: Path, write: Callable[[Path, Any], None], rows: list[dict[str, Any]]) -> str:
    try:
        write(path, rows)
    except pa.ArrowException:
        return REFUSED  # Parquet holds no such rows
    found = outcome(path)
    return REFUSED if isinstance(found, str) else READ if found == len(rows) else LOST


def file_of(path: Path, ending: str, content: bytes) -> str:
    of_images = ending in (".npz", ".png", ".dcm")
    return REFUSED if isinstance(outcome(place_file(path, ending, content), of_images), str) else READ


def as_data(path: Path, ending: str, content: bytes) -> str:
    return file_of(path, f".{ending}", content)


def as_images(path: Path, ending: str, content: bytes) -> str:
    return REFUSED if isinstance(outcome(place_file(path, f".{ending}", content), True), str) else READ


def as_upload(path: Path, ending: str, content: bytes) -> str:
    """As the Space reads what a visitor gives it."""
    from sets import read_set

    path.mkdir()
    file = path / f"given.{ending}"
    file.write_bytes(content)
    return said(lambda: read_set(None, str(file), "the set"))


def as_yaml(path: Path, ending: str, content: bytes) -> str:
    path.write_bytes(content)
    return said(lambda: read_yaml(path))


def as_recipe(path: Path, ending: str, content: bytes) -> str:
    from clinsynth import cli

    recipe = path.with_suffix(".yaml")
    recipe.write_bytes(content)
    return said(lambda: cli.main(["study", str(recipe), "--dry_run", f"--output_dir={path}"]))


def as_checklist(path: Path, ending: str, content: bytes) -> str:
    from clinsynth.judges.checklists import load_checklist

    path.with_suffix(".yaml").write_bytes(content)
    return said(lambda: load_checklist(path.with_suffix(".yaml")))


def as_checkpoint(path: Path, ending: str, content: bytes) -> str:
    from clinsynth.models.generators import load_pipeline

    path.mkdir()
    (path / "model_index.json").write_bytes(content)
    return said(lambda: load_pipeline(str(path)))


def as_pushed(path: Path, ending: str, content: bytes) -> str:
    from clinsynth.hub.files import model_files
    from clinsynth.hub_cards.checkpoint import read_checkpoint

    (path / "unet").mkdir(parents=True)
    (path / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    (path / "model_index.json").write_bytes(content)
    return said(lambda: (model_files(path), read_checkpoint(path)))


def as_json(path: Path, ending: str, content: bytes) -> str:
    from clinsynth.run_folder import read_json

    path.write_bytes(content)
    return said(lambda: read_json(path))


def said(read: Callable[[], object]) -> str:
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            read()
    except (ValueError, SystemExit) as error:
        message = told.getvalue() or str(error)
        assert 10 < len(message) < 3000 and "Traceback" not in message, message[:2000]
        return REFUSED
    return READ


READERS: dict[str, dict[str, Callable[[Path, str, bytes], str]]] = {
    "npz": {"a data set": as_data},
    "parquet": {"a data set": as_data, "of images": as_images, "in the Space": as_upload},
    "zip": {"in the Space": as_upload},
    "png": {"a data set": as_data},
    "yaml": {"any": as_yaml, "a recipe": as_recipe, "a checklist": as_checklist},
    "json": {"a checkpoint": as_checkpoint, "pushed": as_pushed, "any": as_json},
}


def attempt(case: Callable[[Path], str], answers: Any) -> None:
    """In a fork: try it, and say what came of it, and how much memory it, or what it started, took more than it had
    at its start (which a process that is started begins with)."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        try:
            told = case(Path(folder))
        except BaseException:
            told = TRACEBACK
            sys.stderr.write(traceback.format_exc(limit=-3)[-900:])
    own, started = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    answers.send((told, (max(own, started) - before) / 1024))


def main() -> int:
    """Try them all, and print the table; 1 where one is lost, fails, or takes a gigabyte."""
    context = multiprocessing.get_context("fork")
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    most: defaultdict[str, float] = defaultdict(float)
    wrong = []
    for group, kind, case in cases():
        if len(sys.argv) > 1 and sys.argv[1] not in group:
            continue
        here, there = context.Pipe()
        process = context.Process(target=attempt, args=(case, there))
        process.start()
        told, megabytes = here.recv() if here.poll(SECONDS) else (TRACEBACK, 0.0)
        process.kill()
        process.join()
        counts[group][told] += 1
        most[group] = max(most[group], megabytes)
        if told in (LOST, TRACEBACK) or megabytes > 1000:
            wrong.append(f"{group}, {kind}: {told}, {megabytes:.0f} MB")
    print(table(counts, most))
    print("\n".join(["", *wrong]))
    return int(bool(wrong))


def table(counts: dict[str, Counter[str]], most: dict[str, float]) -> str:
    """A row a group, in Markdown."""
    columns = (READ, REFUSED, LOST, TRACEBACK)
    lines = [f"| input | kinds | {' | '.join(columns)} | most memory, MB |", "|---" * (len(columns) + 3) + "|"]
    rows = [*counts.items(), ("all", sum(counts.values(), Counter()))]
    for group, found in rows:
        memory = most.get(group, max(most.values()))
        numbers = " | ".join(str(found[name]) for name in columns)
        lines.append(f"| {group} | {found.total()} | {numbers} | {memory:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
