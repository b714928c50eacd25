"""What a command says of its flags: the essential ones, all of them in groups, and which one a wrong flag may mean.

A command's dataclass may name its `essentials`; these are what `--help` explains, and the rest it only names.
`--help_all` explains all, each under the dataclass that has it first in the line of inheritance.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import re
import shutil
import sys
import textwrap
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

import jsonargparse

from clinsynth.plain_yaml import cut

INDENT = 26
"""Columns before a flag's explanation."""
NUMBERS = {int: ("N", "a whole number"), float: ("X", "a number")}


class Parser(jsonargparse.ArgumentParser):
    """A parser of one command's flags, in words that a user of that command knows."""

    command: type = object
    """The dataclass of its flags."""

    def format_help(self, formatter: Any = None) -> str:
        """What `--help` prints."""
        return self.format_page(everything=False)

    def format_usage(self) -> str:
        """The command's line, without its flags."""
        return f"usage: {self.prog} [--flag value ...]\n"

    def format_page(self, everything: bool) -> str:
        """The help with the essential flags explained and the others named, or with all explained."""
        flags = {action.dest: action for action in self._actions if action.dest != "print_shtab"}
        groups = list(group_flags(self.command, list(flags)).items())
        parts = [self.format_usage(), f"{inspect.cleandoc(self.description or '')}\n"]
        explained = 1 if len(groups) > 2 and not everything else len(groups)
        for title, names in groups[:explained]:
            parts.append(f"{title}:\n" + "".join(explain(flags[name]) for name in names))
        if groups[explained:]:
            rest = [(title, [f"--{name}" for name in names]) for title, names in groups[explained:]]
            lines = "".join(wrap(f"{title}: {' '.join(names)}", "  ", "      ") for title, names in rest)
            count = sum(len(names) for _, names in rest)
            parts.append(f"{count} more flags, which `{self.prog} --help_all` explains:\n{lines}")
        return "\n".join(parts)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Ends with status 2 and one message, which says what a wrong flag or value may stand for."""
        said = self.message_in_words(message)
        if not self.exit_on_error:
            super().error(said, ex)
        more = f"`{self.prog} --help` explains the flags"
        print(f"{self.format_usage()}{more}\n{self.prog}: error: {said}", file=sys.stderr)
        sys.exit(2)

    def message_in_words(self, message: str) -> str:
        """A message of jsonargparse with the flag, the value and a hint instead of Python's names for them."""
        known = [action.dest for action in self._actions]
        wrong = re.fullmatch(r'Parser key "(\w+)":\s+Expected a .*\. Got value: (.*)', message, re.DOTALL)
        if wrong and wrong[1] in known:
            return f"--{wrong[1]} must be {type_in_words(typed(self, wrong[1]))[1]}, got {cut(wrong[2])}"
        missing = re.fullmatch(r"Parser key \"config\": File does not exist: '.*?([^/]*)'", message)
        if missing:
            return f"--config {missing[1]}: there is no such file; check the path (`clinsynth list` knows some)"
        given = re.findall(r"(?:(?<=\s)|^)--([A-Za-z][\w-]*)|Option '(\w+)", message)
        hints = [meant(name, known) for name in map("".join, given) if name not in known]
        return "; ".join([message, *(f"did you mean --{hint}?" for hint in hints if hint)])


class HelpAll(argparse._HelpAction):
    """The flag `--help_all`."""

    def __call__(self, parser: Any, *_: Any, **__: Any) -> None:
        """Print the page, and end."""
        print(parser.format_page(everything=True))
        parser.exit()


def meant(name: str, known: list[str]) -> str | None:
    """The flag of `known` that `name` may have been meant for."""
    name = name.replace("-", "_")
    begun = [flag for flag in known if flag.startswith(name)]
    return next(iter([*begun, *difflib.get_close_matches(name, known, 1)]), None)


def group_flags(command: type, names: list[str]) -> dict[str, list[str]]:
    """Titles and the names of flags under them: the essential ones first, then dataclass by dataclass."""
    chosen = getattr(command, "essentials", "")
    essential = chosen.split() or [field.name for field in dataclasses.fields(command)]
    groups = {"essential flags" if chosen else "flags": essential}
    for owner in command.__mro__:
        about = re.split("[.:;\n]", inspect.getdoc(owner) or "")[0]
        own = [name for name in names if name not in essential and first_owner(command, name) is owner]
        if own:
            groups["of this command" if owner is command else about] = own
    return groups | {"of every command": [name for name in names if first_owner(command, name) is None]}


def first_owner(command: type, name: str) -> type | None:
    """The dataclass, of `command` and those that it inherits from, that has the flag first."""
    return next((each for each in reversed(command.__mro__) if name in vars(each).get("__annotations__", {})), None)


def typed(parser: jsonargparse.ArgumentParser, name: str) -> Any:
    """The type of a flag, None of one that has none."""
    return next((getattr(action, "_typehint", None) for action in parser._actions if action.dest == name), None)


def type_in_words(kind: Any) -> tuple[str, str]:
    """How the value of a flag of this type is written, and what it is: `("N", "whole number")`."""
    parts = [part for part in get_args(kind) if part is not NoneType]
    if get_origin(kind) in (Union, UnionType):
        several = next((get_args(part)[0] for part in parts if get_origin(part) is list), None)
        if several is not None:
            return "A,B,…", f"{'names' if several is str else 'numbers'} with commas between"
        found = [type_in_words(part) for part in parts]
        return "|".join(dict.fromkeys(mark for mark, _ in found)), " or ".join(word for _, word in found)
    if get_origin(kind) is Literal:
        choices = [str(part) for part in parts]
        return "|".join(choices), f"one of {', '.join(choices)}"
    if kind is bool:
        return "true|false", "true or false"
    if get_origin(kind) is dict:
        return "{…}", "settings as YAML"
    if kind in NUMBERS:
        return NUMBERS[kind]
    return ("TEXT", "text") if kind is str else ("VALUE", f"a value of {kind}")


def explain(action: argparse.Action) -> str:
    """A flag, its explanation, its type in words and its default."""
    kind, text = getattr(action, "_typehint", None), " ".join((action.help or "").split())
    mark, word = type_in_words(kind) if kind else ("FILE" if action.dest == "config" else "", "")
    flag = f"--{action.dest}".replace("--print_config", "--print_config[=skip_default]")
    if kind not in (bool, bool | None) or action.default:
        flag = f"{flag} {mark}".rstrip()
    notes = [word] if "number" in word and get_origin(kind) is not Literal else []
    if kind and action.default is not False and action.default not in (None, "", {}, []):
        default = str(action.default).lower() if kind is bool else action.default
        notes.append(f"default {default}")
    said = f"{text} ({', '.join(notes)})" if notes else text
    if len(flag) + 4 > INDENT:
        return f"  {flag}\n{wrap(said, ' ' * INDENT)}"
    return wrap(said, f"  {flag}".ljust(INDENT), " " * INDENT)


def wrap(text: str, first: str, later: str | None = None) -> str:
    """`text` in lines as wide as the terminal, 60 to 120 columns."""
    width = min(max(shutil.get_terminal_size((100, 24)).columns, 60), 120)
    indent = first if later is None else later
    return textwrap.fill(text, width, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False) + "\n"
