"""Diagnosis codes of ICD-10-CM from the package simple-icd-10-cm: titles, inclusion terms, and what a typo meant."""

from __future__ import annotations

import difflib
import functools
from dataclasses import dataclass

MOST_TERMS = 8
"""Inclusion terms that a meaning names; a few codes have dozens."""
SUGGESTIONS = 3


@dataclass(frozen=True)
class Icd10Code:
    """One entry of the classification: its code with the dot, its title, and texts that belong under it."""

    code: str
    title: str
    inclusion_terms: tuple[str, ...]

    @property
    def meaning(self) -> str:
        """Title and inclusion terms as one sentence for a prompt."""
        terms = "; ".join(self.inclusion_terms[:MOST_TERMS])
        return f"{self.title} (ICD-10-CM {self.code})" + (f"; also recorded as: {terms}" if terms else "")


def read_codes(text: str) -> dict[str, Icd10Code]:
    """The codes named by `text`, in its order, by code.

    Args:
        text: entries between commas: codes (`F32.1`, also `f321`) or categories (`F32`), taken as they are; blocks
            (`F30-F39`) and letters (`F`), taken as all their codes that have none below them.

    Raises:
        ValueError: an entry is empty, unknown or named twice; names it and, if unknown, the nearest codes.
    """
    found: dict[str, Icd10Code] = {}
    for entry in text.split(","):
        for code in expand(entry.strip(), text):
            if code.code in found:
                raise ValueError(f"--codes {text} names {code.code} twice; name it once")
            found[code.code] = code
    return found


def expand(entry: str, text: str) -> list[Icd10Code]:
    codes = classification()
    name = entry.upper()
    if not name:
        raise ValueError(f"--codes {text!r} has an empty entry; write codes between commas, such as F32.1,F41.1")
    if len(name) == 1 and name.isalpha():
        below = [code for code in leaves() if code[0] == name]
    elif "-" in name and codes.is_valid_item(name):  # F99 is a block and a category: the category is meant
        below = [code for code in leaves() if name in codes.get_ancestors(code)]
    else:
        return [find_code(entry)]
    if not below:
        raise unknown_code(entry)
    return [code_entry(code) for code in below]


def find_code(entry: str) -> Icd10Code:
    """The code or category that `entry` names; case and dot do not matter.

    Raises:
        ValueError: there is none; the message names the nearest.
    """
    codes = classification()
    name = entry.strip().upper()
    if not is_code(name):
        raise unknown_code(entry)
    return code_entry(codes.add_dot(name))


def code_entry(code: str) -> Icd10Code:
    codes = classification()
    return Icd10Code(code, codes.get_description(code), tuple(codes.get_inclusion_term(code)))


def unknown_code(entry: str) -> ValueError:
    near = ", ".join(f"{code} ({classification().get_description(code)})" for code in nearest_codes(entry))
    return ValueError(f"ICD-10-CM code {entry!r} is unknown; the nearest are {near}")


def nearest_codes(entry: str) -> list[str]:
    """Up to three codes for a wrong one: its parents that exist, then codes spelt alike; for words, by title."""
    codes = classification()
    name = entry.upper().replace(".", "").replace(" ", "")
    if not any(sign.isdigit() for sign in name):
        return by_title(entry)
    parents = [codes.add_dot(name[:end]) for end in range(len(name) - 1, 2, -1) if is_code(name[:end])]
    dotted = f"{name[:3]}.{name[3:]}" if len(name) > 3 else name
    everything = [code for code in codes.get_all_codes() if is_code(code)]
    same_letter = [code for code in everything if code[0] == name[0]]
    alike = difflib.get_close_matches(dotted, same_letter or everything, n=SUGGESTIONS, cutoff=0)
    return list(dict.fromkeys([*parents[:1], *alike]))[:SUGGESTIONS]


def by_title(entry: str) -> list[str]:
    codes = classification()
    titles = {codes.get_description(code).lower(): code for code in leaves()}
    words = entry.strip().lower()
    containing = [title for title in titles if words in title]
    ranked = sorted(containing, key=lambda title: (not title.startswith(words), titles[title][0] != "F", len(title)))
    close = difflib.get_close_matches(words, [t for t in titles if titles[t][0] == "F"], n=3, cutoff=0)
    return [titles[title] for title in (ranked or close)[:SUGGESTIONS]]


def is_code(name: str) -> bool:
    codes = classification()
    return bool(codes.is_valid_item(name)) and bool(codes.is_category_or_subcategory(name))


@functools.cache
def leaves() -> list[str]:
    """All codes without any below them, each once."""
    codes = classification()
    return list(dict.fromkeys(code for code in codes.get_all_codes() if codes.is_leaf(code) and is_code(code)))


@functools.cache
def classification():  # type: ignore[no-untyped-def]  # a module of a package without types
    """The module simple_icd_10_cm, which reads 10 MB when it is first imported.

    Raises:
        ImportError: it is not installed; says how to.
    """
    try:
        import simple_icd_10_cm
    except ImportError as error:
        raise ImportError(f"ICD-10 codes need simple-icd-10-cm ({error}); pip install clinsynth[text]") from error
    return simple_icd_10_cm
