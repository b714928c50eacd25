"""The prompt of each class: from a template or the user's own words, short enough for the model, none like another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

LABEL = "{label}"
"""Stands in a prompt for the class's name, or for its learned word."""


def class_prompts(template: str, own: str | None, names: list[str], words: list[str] | None = None) -> dict[int, str]:
    """Class number to prompt.

    Args:
        template: for the classes that `own` does not name.
        own: the value of --prompts, LABEL=PROMPT,LABEL=PROMPT or a YAML file of LABEL: PROMPT.
        names: of the classes.
        words: what stands for them instead, where words are learned.

    Raises:
        ValueError: an unknown class, an empty prompt, one without a place for the learned word, two alike.
    """
    if LABEL not in template:
        raise ValueError(f"--prompt_template must hold {LABEL}, got {template!r}; write 'a picture of {LABEL}'")
    given = parse_prompts(own, names) if own else {}
    prompts = {}
    for number, name in enumerate(names):
        prompt = given.get(name, template)
        if words and LABEL not in prompt:
            raise ValueError(
                f"--prompts: the prompt of {name} must hold {LABEL}, where --textual_inversion_steps puts the learned "
                f"word, got {prompt!r}"
            )
        prompts[number] = prompt.replace(LABEL, words[number] if words else name)
    check_different(prompts, names)
    return prompts


def parse_prompts(text: str, names: list[str]) -> dict[str, str]:
    """Class name to prompt; a comma within a prompt is part of it, unless a class name and = follow."""
    if text.endswith((".yaml", ".yml")):
        return read_prompts(Path(text), names)
    known = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    parts = re.split(rf"(?:^|,)\s*({known})\s*=", text)
    found = dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))
    strange = [part for part in (parts[0], *found.values()) if "=" in part]
    if strange or not found:
        raise ValueError(
            f"--prompts: {(strange or [text])[0]!r} is not LABEL=PROMPT of a class; the classes are "
            f"{', '.join(names)}; prompts that hold a = go into a YAML file"
        )
    return check_prompts(found, names)


def read_prompts(path: Path, names: list[str]) -> dict[str, str]:
    """The YAML file of --prompts."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"--prompts {path} cannot be read ({error}); give a YAML file of LABEL: PROMPT") from error
    if not isinstance(found, dict) or not all(isinstance(prompt, str) for prompt in found.values()):
        raise ValueError(f"--prompts {path} must be a YAML file of LABEL: PROMPT, each prompt a text")
    return check_prompts({str(name): prompt.strip() for name, prompt in found.items()}, names)


def check_prompts(found: dict[str, str], names: list[str]) -> dict[str, str]:
    """The prompts themselves, all of known classes and none empty."""
    for name, prompt in found.items():
        if name not in names:
            raise ValueError(f"--prompts names the class {name!r}; the classes are {', '.join(names)}")
        if not prompt:
            raise ValueError(f"--prompts: the prompt of {name} is empty; say what its pictures show")
    return found


def check_different(prompts: dict[int, str], names: list[str]) -> None:
    """Raise a `ValueError` where two classes have the same prompt, which no model could tell apart."""
    first: dict[str, int] = {}
    for number, prompt in prompts.items():
        if prompt in first:
            raise ValueError(
                f"--prompts: {names[first[prompt]]} and {names[number]} have the same prompt {prompt!r}; "
                "give each its own"
            )
        first[prompt] = number


def check_lengths(pipe: Any, prompts: dict[int, str], names: list[str]) -> None:
    """Raise a `ValueError` where a prompt is longer than what a text encoder reads; the rest would be cut off."""
    for component in ("tokenizer", "tokenizer_2"):
        tokenizer = pipe.components.get(component)
        for number, prompt in prompts.items():
            if tokenizer is None:
                continue
            count, most = len(tokenizer(prompt).input_ids), tokenizer.model_max_length
            if count > most:
                raise ValueError(
                    f"the prompt of {names[number]} has {count} tokens, {count - most} more than the {most} that "
                    f"--model reads, so its end would be lost; shorten it: {prompt!r}"
                )


def learned_words(names: list[str]) -> list[str]:
    """A new word for each class: `<0-mild>`."""
    slugs = [re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") for name in names]
    return [f"<{number}-{slug}>" if slug else f"<{number}>" for number, slug in enumerate(slugs)]
