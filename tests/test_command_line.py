"""The command `clinsynth`: help without heavy imports, configuration files, and errors that name the flag."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from helpers import REPOSITORY, clinsynth, run_python, run_warm, write_npz

from clinsynth.arguments import parse
from clinsynth.cli import COMMANDS, load_command, main
from clinsynth.data.tasks import load_task
from clinsynth.judges.checklists import load_checklist
from clinsynth.plain_yaml import read_yaml
from clinsynth.run_folder import config_yaml
from clinsynth.study.arguments import StudyArguments
from clinsynth.trainers.diffusion.arguments import DDPMArguments

HEAVY = {"torch", "diffusers", "transformers", "datasets", "accelerate", "sklearn"}


HELP = """
import json, os, sys
from clinsynth.cli import main
for words in json.loads(sys.argv[1]):
    if os.fork() == 0:
        try:
            main([*words, "--help"])
        except SystemExit:
            pass
        print("heavy:", sorted(set(json.loads(sys.argv[2])) & set(sys.modules)), end="\\0", flush=True)
        os._exit(0)
    os.wait()
"""
"""Prints the help of each command, begun in a fork, so that none finds what another has imported."""


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """What each command prints for --help, "" being none, and then what heavy modules it has imported."""
    names = ["", *COMMANDS]
    said = run_python("-c", HELP, json.dumps([name.split() for name in names]), json.dumps([*HEAVY])).stdout
    return dict(zip(names, said.split("\0")[:-1], strict=True))


@pytest.mark.parametrize("name", ["", *COMMANDS], ids=["clinsynth", *COMMANDS])
def test_help_teaches_and_imports_nothing_heavy(name: str, helps: dict[str, str]) -> None:
    assert "heavy: []" in helps[name]
    assert f"clinsynth {name or 'train ddpm'}" in helps[name]


def page_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command prints that only explains something."""
    with pytest.raises(SystemExit) as ended:
        main([*words])
    assert not ended.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_explained_once_with_a_type_in_words(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = page_of(capsys, *name.split(), "--help_all")
    assert not re.search(r"Unvalidated|Optional|Literal|<class|list\[|[|,] null|NoneType|None\)", printed)
    _, arguments_class = load_command(name)
    entries = re.split(r"\n  --", printed)[1:]
    flags = [re.split(r"[ \n\[]", entry)[0] for entry in entries]
    fields = [field.name for field in dataclasses.fields(arguments_class)]
    assert sorted(flags) == sorted([*fields, "help", "help_all", "config", "print_config"])
    for flag, entry in zip(flags, entries, strict=True):
        assert len(entry.split()) >= 4, f"--{flag} has no help"
    assert all(len(line) <= 119 for line in printed.splitlines() if not line.startswith("  clinsynth "))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_begins_with_what_a_first_run_needs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = page_of(capsys, *name.split(), "--help")
    assert printed.startswith(f"usage: clinsynth {name} [--flag value ...]\n\n")
    assert page_of(capsys, "help", *name.split()) == printed
    _, arguments_class = load_command(name)
    essentials = getattr(arguments_class, "essentials", "").split()
    fields = [field.name for field in dataclasses.fields(arguments_class)]
    assert set(essentials) <= set(fields) and len(essentials) <= 15
    explained = re.findall(r"^  --(\w+)", printed, re.MULTILINE)
    assert explained[: len(essentials)] == essentials and len(explained) <= 15
    assert all(f"--{field}" in printed for field in fields), "a flag is neither explained nor named"
    assert ("--help_all` explains" in printed) == bool(essentials)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_flag_is_answered_with_the_one_that_was_meant(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, arguments_class = load_command(name)
    flag = max((field.name for field in dataclasses.fields(arguments_class)), key=len)
    wrong = flag[:3] + flag[4:]
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), f"--{wrong}", "1"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and f"did you mean --{flag}?" in said and len(said.splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["train", "ddpm", "--train-steps", "5"],
            "unrecognized arguments: --train-steps 5; did you mean --train_steps?",
        ),
        (["train", "ddpm", "--out", "runs"], "did you mean --output_dir?"),
        (["train", "ddpm", "--train_steps", "five"], "--train_steps must be a whole number, got five"),
        (["train", "ddpm", "--backbone", "vit"], "--backbone must be one of unet2d, context_unet, got vit"),
        (["study", "nosuch"], "--config nosuch: there is no such file; check the path (`clinsynth list`"),
        (["study", "--generator.ddpm.width", "3"], "did you mean --generators?"),
        (["trian", "ddpm"], "unknown command 'trian ddpm'; did you mean `clinsynth train ddpm`?"),
        (["train", "ddmp"], "did you mean `clinsynth train ddpm`?"),
        (["summarise"], "did you mean `clinsynth summarize`?"),
        (["list", "tusks"], "--kind 'tusks' is unknown; give studies, settings, tasks"),
    ],
)
def test_wrong_words_are_answered_with_a_hint(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize("words", [["train"], ["train", "--help"], ["help", "train"]])
def test_a_first_word_alone_lists_its_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(words)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert [line[2:28].strip() for line in rows] == [name for name in COMMANDS if name.startswith("train ")]
    assert all(line[28:] for line in rows)


def test_all_that_goes_by_a_name_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    from clinsynth.data import phantom_fundus, phantom_posts
    from clinsynth.data.tasks import task_names
    from clinsynth.judges.checklists import checklist_names
    from clinsynth.judges.judges import JUDGES
    from clinsynth.models.generators import SCHEDULERS

    main(["list"])
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    studies = {path.stem for path in (REPOSITORY / "recipes").glob("*.yaml")}
    builtin = {phantom_fundus.NAME, phantom_posts.NAME}
    assert listed >= studies | set(task_names()) | set(checklist_names()) | set(JUDGES) | set(SCHEDULERS) | builtin
    main(["list", "studies"])
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")} == studies


def test_the_space_is_started_with_what_is_named(tmp_path: Path) -> None:
    space, arguments_class = load_command("space")
    (tmp_path / "app.py").write_text(
        "import json, os, sys, pathlib\n"
        "asked = json.dumps([sys.argv[1:], os.environ['STUDIO_SETS']])\n"
        "pathlib.Path(__file__).with_name('asked.json').write_text(asked)\n"
    )
    space.main(arguments_class(folder=str(tmp_path), models="a,b", sets=f"{tmp_path},{tmp_path.parent}", port=7861))
    words, sets = json.loads((tmp_path / "asked.json").read_text())
    assert words == ["--models", "a,b", "--host", "127.0.0.1", "--port", "7861"]
    assert sets.split(os.pathsep) == [str(tmp_path), str(tmp_path.parent)]
    with pytest.raises(ValueError, match=r"holds no app\.py; name the Space's folder"):
        space.main(arguments_class(folder=str(tmp_path / "none")))
    with pytest.raises(ValueError, match="--sets none is no folder"):
        space.main(arguments_class(sets="none"))


def test_a_study_that_comes_with_clinsynth_goes_by_its_name() -> None:
    study, _ = load_command("study")
    flag, path, *rest = study.recipe_first(["phantom", "--dry_run"])
    assert (flag, rest) == ("--config", ["--dry_run"]) and parse(StudyArguments, [flag, path]).few_shot == 20


def test_flags_win_over_the_config_file(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("train_steps: 5\nwidth: 16\nlabel_names: [a, b]\n")
    args = parse(DDPMArguments, ["--config", str(config), "--width", "24", "--dry_run"])
    assert (args.train_steps, args.width, args.label_names, args.dry_run) == (5, 24, ["a", "b"], True)


def test_a_preset_gives_way_to_the_config_file_and_flags(tmp_path: Path) -> None:
    recipe = ["--config", str(REPOSITORY / "recipes" / "ddpm" / "ehealth_paper.yaml")]
    paper = parse(DDPMArguments, ["--preset", "paper"])
    assert dataclasses.replace(paper, preset=None) == parse(DDPMArguments, recipe)
    config = tmp_path / "config.yaml"
    config.write_text("preset: fast\ntrain_steps: 5\n")
    args = parse(DDPMArguments, ["--config", str(config), "--width", "128"])
    assert (args.patch_size, args.train_steps, args.width, args.learning_rate) == (2, 5, 128, 1e-3)
    assert parse(DDPMArguments, ["--preset", "best", "--learning_rate", "0.01"]).learning_rate == 0.01
    assert parse(DDPMArguments, ["--preset", "fast", "--width", "16"]).learning_rate == 2e-3
    config.write_text(config_yaml(args))  # of a run: all is written, and read as it was
    assert parse(DDPMArguments, ["--config", str(config)]) == args


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("train_stepz: 5\n", [], "train_stepz"),
        ("train_steps: many\n", [], "train_steps"),
        ("", ["--train_steps", "1.5"], "train_steps"),
        ("", ["--traim_steps", "1"], "traim_steps"),
        ("", ["--backbone", "vit"], "backbone"),
        ("", ["--config", "missing.yaml"], "missing.yaml"),
        ("", ["--train_steps", "-3"], "--train_steps must be above 0, got -3"),
    ],
)
def test_wrong_keys_and_types_are_named(
    text: str, flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(text or "{}\n")
    with pytest.raises(SystemExit) as ended:
        main(["train", "ddpm", "--config", str(config), *flags])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_unknown_commands_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "gpt"])
    assert ended.value.code == 2
    assert "unknown command 'train gpt'; " in capsys.readouterr().err


def test_a_users_error_is_one_message(tmp_path: Path) -> None:
    result = clinsynth("train", "ddpm", "--dataset", tmp_path / "missing.npz", check=False)
    assert result.returncode == 2
    assert "missing.npz" in result.stderr and "Traceback" not in result.stderr


def test_scripts_run_by_their_path(tmp_path: Path) -> None:
    data = write_npz(tmp_path / "data.npz")
    printed = run_warm(REPOSITORY / "trainers" / "train_ddpm.py", "--dataset", data, "--dry_run").stdout
    assert "18 images" in printed


@pytest.mark.parametrize(
    ("command", "path"),
    [
        (command, path)
        for command, folder in (
            ("train ddpm", "ddpm"),
            ("train image-classifier", "classifier"),
            ("train text-to-image-lora", "text_to_image"),
        )
        for path in sorted((REPOSITORY / "recipes" / folder).glob("*.yaml"))
    ],
    ids=str,
)
def test_settings_of_one_trainer_are_valid(command: str, path: Path) -> None:
    _, arguments_class = load_command(command)
    assert parse(arguments_class, ["--config", str(path)]).dataset


BOMB = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 8)}]\n" for before, name in pairwise("abcdefgh")
)
HOSTILE = {
    "aliases": (BOMB, "line [567]: over 20000 values, aliases written out"),
    "itself": ("a: &a [*a]", "a value stands within itself"),
    "deep aliases": (
        "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 60)),
        "more than 20 levels deep",
    ),
    "merged keys": ("a: &a {b: 1}\nb: &b {<<: [*a, *a]}\n" + "c: [" + "*b, " * 9000 + "*b]", "over 20000 values"),
    "deep brackets": ("[" * 100_000, "more than 20 levels deep"),
    "deep maps": ("{a: " * 50 + "1" + "}" * 50, "more than 20 levels deep"),
    "deep sequences": ("- " * 5_000 + "x", "more than 20 levels deep"),
    "many values": ("[" + "x," * 30_000 + "x]", "over 20000 values"),
    "many bytes": ("# " + "x" * 300_000, "more than 256 KB"),
    "a long number": ("a: " + "1:" * 5_000 + "1", "a number is too long"),
    "a longer number": ("a: " + "9" * 5_000, "a number is too long"),
    "a doubled key": ("a: 1\na: 2", "line 2: 'a' is given twice"),
    "a program": ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    "a long unknown tag": (f"a: !{'x' * 5_000} b", "could not determine a constructor"),
    "a list as a key": ("? [a, b]\n: c", "unhashable"),
    "no UTF-8": (b"a: \xff\xfe", "cannot be read as YAML in UTF-8"),
    "control characters": ("a: \x00\x07", "special characters are not allowed"),
    "no date": ("a: 2001-99-99", "month must be in 1..12"),
    "an open text": ('a: "b', "line 1: found unexpected end"),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("read", ["config", "recipe", "checklist", "task"])
def test_hostile_yaml_is_refused_in_few_words(kind: str, read: str, tmp_path: Path) -> None:
    content, why = HOSTILE[kind]
    path = tmp_path / "hostile.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    readers: dict[str, Callable[[], object]] = {
        "config": lambda: parse(DDPMArguments, ["--config", str(path)]),
        "recipe": lambda: parse(StudyArguments, ["--config", str(path)]),
        "checklist": lambda: load_checklist(path),
        "task": lambda: load_task(str(path)),
    }
    with pytest.raises(ValueError, match=why) as caught:
        readers[read]()
    assert len(str(caught.value)) < 300 + len(str(path)) and str(path) in str(caught.value)


def test_aliases_within_bounds_are_read(tmp_path: Path) -> None:
    path = tmp_path / "anchors.yaml"
    path.write_text("a: &a {b: 1, c: [x]}\nd: {<<: *a, b: 2}\ne: *a\n")
    assert read_yaml(path) == {"a": {"b": 1, "c": ["x"]}, "d": {"b": 2, "c": ["x"]}, "e": {"b": 1, "c": ["x"]}}


def test_messages_about_checklists_repeat_little(tmp_path: Path) -> None:
    long = "x" * 50_000
    path = tmp_path / "long.yaml"
    for content in (f"name: [{long}]", f"{long}: 1", f"conditions: {{{long}: [{{id: {long}}}]}}", f"version: {long}"):
        path.write_text(content)
        with pytest.raises(ValueError) as caught:
            load_checklist(path)
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize("words", [["list"], ["help"]])
def test_who_stops_reading_gets_no_message(words: list[str]) -> None:
    """As `clinsynth list | head -1`."""
    command = [sys.executable, "-m", "clinsynth", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == ("", 128 + signal.SIGPIPE)
