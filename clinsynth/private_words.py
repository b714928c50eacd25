"""What a card must not give away: where files lie on a machine, what a hospital calls its columns, addresses, tokens.

Everything that a card shows of a run's files passes `without_paths` or `describe_command`; `refuse_private` is the
last look at the whole text, for what the user's own words may hold.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

from clinsynth.cli import COMMANDS, module_name

HIDDEN = "…"
HIDDEN_FLAGS = {"address", "endpoint", "group_column", "hub_model_id", "label_column", "subgroups", "text_column"}
DATA_FLAGS = {"dataset", "real"}
SCRIPTS = {f"{module_name(name).rpartition('.')[2]}.py": name for name in COMMANDS}
STARTS = r"(?:file:/*(?=/)|~[\w.-]*|\.\.|[A-Za-z]:)?"
WHOLE_PATH = re.compile(STARTS + r"[/\\]")
PATH_IN_TEXT = re.compile(rf"(?<![\w/:.\\<]){STARTS}[/\\](?:[^\s/\\\"'`,;]+[/\\])*([^\s/\\\"'`,;]*)")
DEEP_PATH = re.compile(r"(?<![\w/:.<])(?:~[\w.-]*|[A-Za-z]:)?[/\\][\w.@ -]+[/\\][\w.@-]+")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
TOKEN = re.compile(r"\b(?:hf_|api_org_|sk-|ghp_|github_pat_)[\w-]{16,}")
SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|API_?KEY", re.IGNORECASE)
SHORTEST_SECRET = 8
BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Signs that turn the direction of reading: what is shown is then not what is there."""
DATA_SUFFIXES = (".npz", ".csv", ".jsonl", ".json", ".parquet", ".gguf", ".pt", ".zip", ".tar", ".gz")


def shorten(text: str) -> str:
    """`text` with each path that leads out of the working folder cut down to its last part.

    A relative path below the working folder stays: it is what the commands of a card are repeated with.
    """
    if "://" in text and "file:" not in text and " " not in text:
        return HIDDEN
    if WHOLE_PATH.match(text) or (" " not in text and ".." in Path(text).parts):
        return last_part(text)
    return PATH_IN_TEXT.sub(lambda found: found.group(1), text)


def last_part(path: str) -> str:
    """`c.npz` of `/a/b/c.npz`, `a\\b\\c.npz` and `a/b/c.npz/`."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def without_paths(value: Any) -> Any:
    """A value of JSON's types whose texts have passed `shorten`."""
    if isinstance(value, str):
        return shorten(value)
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    if isinstance(value, dict):
        return {name: without_paths(item) for name, item in value.items()}
    return value


def hub_id(spec: str | None, folder: Path) -> str | None:
    """`spec` where it is an id on the Hub: owner/name, and neither here nor in or above `folder` such a path."""
    if not spec or not HUB_ID.fullmatch(spec) or spec.lower().endswith(DATA_SUFFIXES):
        return None
    places = [Path(), folder.resolve(), *folder.resolve().parents]
    return None if any((place / spec).exists() for place in places) else spec


def describe_command(words: list[str] | None, folder: Path) -> str | None:
    """The command line of `environment.json` as one repeats it, without what is private; None of an unknown program.

    Args:
        folder: of the run, beside which the command's relative paths are looked for.
    """
    if not words:
        return None
    if words[0] in ("__main__.py", "clinsynth"):
        shown = ["clinsynth"]
    elif words[0] in SCRIPTS:
        shown = ["clinsynth", *SCRIPTS[words[0]].split()]
    else:
        return None
    flag = ""
    for word in words[1:]:
        if word.startswith("--"):
            flag, equals, value = word[2:].partition("=")
            shown.append(f"--{flag}{equals}{quote(public_value(flag, value, folder)) if equals else ''}")
        else:
            shown.append(quote(public_value(flag, word, folder)))
    return " ".join(shown)


def public_value(flag: str, value: str, folder: Path) -> str:
    """What a card shows of the value of a flag."""
    if flag in HIDDEN_FLAGS:
        return HIDDEN
    if flag in DATA_FLAGS:
        return hub_id(value, folder) or last_part(value)
    return shorten(value)


def quote(word: str) -> str:
    return word if word == HIDDEN else shlex.quote(word)


def refuse_private(card: str, what: str = "the card") -> str:
    """The card itself, or another text that is handed out, which messages call `what`.

    Raises:
        ValueError: it holds a path of a machine, or what looks like a token or is the value of a secret environment
            variable; it says which, not what.
    """
    mend = "take it out of the words that you gave, or rename it in the run's files"
    for name, value in os.environ.items():
        if SECRET_NAMES.search(name) and len(value) >= SHORTEST_SECRET and value in card:
            raise ValueError(f"{what} would hold the value of the environment variable {name}; {mend}")
    if TOKEN.search(card):
        raise ValueError(f"{what} would hold what looks like an access token; {mend}")
    if found := DEEP_PATH.search(card):
        line = card.count("\n", 0, found.start()) + 1
        raise ValueError(f"line {line} of {what} would hold a path of this machine; {mend}")
    return card
