"""The command `clinsynth`: help without heavy imports, configuration files, and errors that name the flag."""

from pathlib import Path

import pytest
from helpers import REPOSITORY, clinsynth, run_python, write_npz

from clinsynth.arguments import parse
from clinsynth.cli import COMMANDS, load_command, main
from clinsynth.trainers.arguments import DDPMArguments

HEAVY = {"torch", "diffusers", "transformers", "datasets", "accelerate", "sklearn"}


@pytest.mark.parametrize("words", [[], *[name.split() for name in COMMANDS]], ids=["clinsynth", *COMMANDS])
def test_help_teaches_and_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys\nfrom clinsynth.cli import main\n"
        f"try:\n    main({[*words, '--help']!r})\nexcept SystemExit:\n    pass\n"
        f"print('heavy:', sorted({HEAVY!r} & set(sys.modules)))"
    )
    printed = run_python("-c", code).stdout
    assert "heavy: []" in printed
    assert "clinsynth train ddpm" in printed or f"clinsynth {' '.join(words)}" in printed


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_explained(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*name.split(), "--help"])
    printed = capsys.readouterr().out.split("options:")[1]
    for entry in printed.split("\n  --")[1:]:
        flag, _, text = entry.partition(" ")
        assert len(text.split("(type:")[0].split()) >= 3, f"--{flag} has no help"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_has_a_type_that_is_checked(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*name.split(), "--help"])
    assert "Unvalidated" not in capsys.readouterr().out


def test_flags_win_over_the_config_file(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("train_steps: 5\nwidth: 16\nlabel_names: [a, b]\n")
    args = parse(DDPMArguments, ["--config", str(config), "--width", "24", "--dry_run"])
    assert (args.train_steps, args.width, args.label_names, args.dry_run) == (5, 24, ["a", "b"], True)


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
    assert "unknown command 'train gpt'" in capsys.readouterr().err


def test_a_users_error_is_one_message(tmp_path: Path) -> None:
    result = clinsynth("train", "ddpm", "--dataset", tmp_path / "missing.npz", check=False)
    assert result.returncode == 2
    assert "missing.npz" in result.stderr and "Traceback" not in result.stderr


def test_scripts_run_by_their_path(tmp_path: Path) -> None:
    data = write_npz(tmp_path / "data.npz")
    printed = run_python(REPOSITORY / "trainers" / "train_ddpm.py", "--dataset", data, "--dry_run").stdout
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
