"""Arguments: a dataclass in, a parsed and checked instance of it out.

One dataclass a script; the string under a field is its help. `--config file.yaml` sets defaults, flags win, and an
unknown key or a wrong type is an error that names it. Nothing heavy is imported here, so that `--help` is quick.
"""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import jsonargparse

from clinsynth.help import HelpAll, Parser
from clinsynth.plain_yaml import cut, parse_yaml, read_yaml
from clinsynth.processes import ended_properly, quiet_when_unread
from clinsynth.withheld import Withholding

T = TypeVar("T")

HERE = Path(__file__).parent
ROOTS = (HERE / "recipes", HERE.parent / "recipes")
"""Where the YAML files lie that flags call by name: in the installed package, and in a checkout."""

# warnings and instantaneous bars of libraries, since what is slow here has a bar of its own; and their telemetry
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def build_parser(arguments_class: type, prog: str | None = None) -> Parser:
    """A parser with one flag for each field of the dataclass `arguments_class`, and `--config`."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = Parser(prog=prog, description=arguments_class.__doc__, allow_abbrev=False)
    parser.command = arguments_class
    parser.add_argument("--help_all", action=HelpAll, help="explain all flags, and stop")
    parser.add_argument(
        "--config",
        action=BoundedConfigFile,
        help="A YAML file that sets defaults; flags win. A run folder's config.yaml is such a file.",
    )
    # flags that are inherited from another module have their types as texts, which only that module can read
    vars(arguments_class)["__init__"].__annotations__ = get_type_hints(arguments_class)
    parser.add_class_arguments(arguments_class, as_group=False)
    for action in parser._actions:
        if getattr(action, "_typehint", None) in (bool, bool | None):  # `--dry_run` alone means `--dry_run true`
            action.nargs, action.const = "?", True
    return parser


class BoundedConfigFile(jsonargparse.ActionConfigFile):
    """A file that is read by our own bounds before jsonargparse, which has none, reads it."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Raises a `ValueError` that names the file where it is beyond a bound."""
        if Path(values).is_file():
            read_yaml(Path(values))
        else:
            parse_yaml(values)
        super().__call__(parser, cfg, values, option_string)


def parse(arguments_class: type[T], argv: Sequence[str] | None = None, prog: str | None = None) -> T:
    """Parse `argv` (default: the command line) into an instance of the dataclass `arguments_class`.

    A wrong flag, key or type ends the program with status 2 and a message that names it; what the dataclass itself
    refuses (`ValueError` from its `__post_init__`) is raised. Of a dataclass with a flag `preset`, and in `presets`
    the recipes of its values, these set defaults that --config and flags win over.
    """
    parser = build_parser(arguments_class, prog)
    words, deep = without_deep_flags(sys.argv[1:] if argv is None else argv)
    values: dict[str, Any] = parser.parse_args(words).as_dict()
    if values.get("preset"):
        kind, name = arguments_class.presets[values["preset"]]  # type: ignore[attr-defined]
        parser.set_defaults(read_yaml(find_recipe(kind, "--preset", name)))
        values = parser.parse_args(words).as_dict()
    values.pop("config", None)
    for path, text in deep:
        try:
            set_deep(values, path, parse_yaml(text))
        except ValueError as error:
            parser.error(f"--{'.'.join(path)} {cut(text)}: {error}")
    return arguments_class(**values)


def without_deep_flags(words: Sequence[str]) -> tuple[list[str], list[tuple[list[str], str]]]:
    """The words of a command line without `--a.b.c value` and its kin, and these as (["a", "b", "c"], "value").

    They change one setting in a dictionary of dictionaries, where jsonargparse would put {c: value} in the place of
    all of a.b. Without a value they mean true.
    """
    plain: list[str] = []
    deep: list[tuple[list[str], str]] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if not name.startswith("--") or name.count(".") < 2:
            plain.append(word)
            continue
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        deep.append((name[2:].split("."), value))
    return plain, deep


def set_deep(values: dict[str, Any], path: list[str], value: Any) -> None:
    """Set values[a][b][c] for the path a, b, c; a and b must be there."""
    field, name, *_, key = path
    entries = values.get(field)
    if not isinstance(entries, dict) or name not in entries:
        there = ", ".join(entries) if isinstance(entries, dict) and entries else "none"
        raise ValueError(f"{field} has no entry {name}; there is {there}")
    found = values
    for section in path[:-1]:
        found[section] = dict(found.get(section) or {})  # a copy: a YAML alias may stand elsewhere, too
        found = found[section]
    found[key] = value


def check_at_least(args: object, least: int, names: list[str]) -> None:
    """Raise a `ValueError` for the first flag of `names` that is given and below `least`."""
    for name in names:
        value = getattr(args, name)
        if value is not None and not value >= least:
            raise ValueError(f"--{name} must be at least {least}, got {value}")


def recipe_files(kind: str) -> dict[str, Path]:
    """The files of recipes/`kind` that come with clinsynth, by name; kind "." is of whole studies."""
    found = {path.stem: path for root in reversed(ROOTS) for path in (root / kind).glob("*.yaml")}
    return dict(sorted(found.items()))


def recipe_names(kind: str) -> list[str]:
    """The names of `recipe_files`."""
    return list(recipe_files(kind))


def find_recipe(kind: str, flag: str, name: str) -> Path:
    """The file that is called `name`, or the user's .yaml file `name` itself.

    Raises:
        ValueError: there is none; names the flag `flag`, the value and what there is.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ValueError(f"{flag} {name}: there is no such file; check the path")
        return Path(name)
    files = recipe_files(kind)
    if name not in files:
        raise ValueError(f"{flag} {cut(name)!r} is unknown; give {', '.join(files)} or the path of a .yaml file")
    return files[name]


def run(
    arguments_class: type[T], main: Callable[[T], object], argv: Sequence[str] | None = None, prog: str | None = None
) -> None:
    """Parse, then call `main`; a user's error ends the program with status 2 and one message instead of a traceback.

    With the environment variable `CLINSYNTH_DEBUG` set the traceback is shown.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with redirect_stdout(Withholding(sys.stdout)), redirect_stderr(Withholding(sys.stderr)):  # type: ignore[type-var]
        logging.basicConfig(format="%(message)s", level=logging.WARNING)
        logging.getLogger("clinsynth").setLevel(logging.INFO)
        try:
            with ended_properly(), quiet_when_unread():
                main(parse(arguments_class, argv, prog))
        except (ValueError, OSError, FloatingPointError, ImportError) as error:  # ImportError: an extra is missing
            if os.environ.get("CLINSYNTH_DEBUG"):
                raise
            print(f"{prog or os.path.basename(sys.argv[0])}: error: {error}", file=sys.stderr)
            sys.exit(2)
