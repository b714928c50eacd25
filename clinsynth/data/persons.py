"""Whose a row is: the column that tells it, its values made alike, and what is wrong with them.

One person's rows never stand in two splits. Ids that differ by blanks, case or leading zeros alone are kept together
when splits are cut, which tears nobody apart whether they are one person's or not, and are reported.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import defaultdict
from typing import Any

import numpy as np
from datasets import Dataset

from clinsynth.data.arguments import WayInArguments
from clinsynth.data.columns import is_missing, texts_of, withhold_column
from clinsynth.data.labels import PERSON, words_of

logger = logging.getLogger("clinsynth")

Splits = dict[str, Dataset]

PEOPLE = (
    "patient pat patienten patientin paciente paziente pasient mrn pid ptid 患者 病人",
    "subject subj sujeto sujet soggetto sujeito participant participante partecipante deelnemer teilnehmer proband "
    "probandin proefpersoon individual volunteer donor client resident pt 被験者",
    "person persona personne persoon user username usuario utilisateur utente utilizador gebruiker benutzer nutzer "
    "author autor auteur autore member speaker",
)
CASES = ("case fall caso cas", "lesion lesione lasion", "study studie estudio etude studio exam")
ID = "id|ids|nr|no|num|number|nummer|code|uid|identifier|identifiant|identificador|kennung|key|numero|hash"
ID_WORDS = frozenset([*ID.split("|"), *"pseudonym instance anonymous anonymized anonymised anon deid".split()])
ALONE = "lesion"
"""Of `CASES`, what need not be called an id."""


def rank_of(column: str) -> int | None:
    """How surely a column's name says whose a row is, 0 the surest; None where it does not.

    Patients come before subjects, users, cases, lesions and studies: the first of these that a data set has tells its
    persons. `case`, `study` and their like must be called an id.
    """
    found = (rank_of_words(words) for words in (words_of(column), words_of(column.lower())))
    return next((rank for rank in found if rank is not None), None)


def rank_of_words(words: list[str]) -> int | None:
    """`rank_of` of a name in words; `patientid` may be one."""
    nouns = [word for word in words if word not in ID_WORDS]
    for rank, names in enumerate((*PEOPLE, *CASES) if len(nouns) == 1 else ()):
        for name in names.split():
            joined = re.fullmatch(rf"({ID})?{name}(?:s|e|es|en)?({ID})?", nouns[0])
            if joined and (rank < len(PEOPLE) or len(words) > 1 or joined[1] or joined[2] or name == ALONE):
                return rank
    return None


def person_column(columns: list[list[str]], asked: str | None) -> str | None:
    """The column that `--group_column` names, else the surest of those that every split has; None where none tells.

    `columns` are those of each split.

    Raises:
        ValueError: the column asked for is not in every split.
    """
    shared = set.intersection(*map(set, columns))
    if asked == "none":
        return None
    if asked is not None:
        if asked not in shared:
            raise ValueError(
                f"--group_column {asked}: not every split has such a column; they share {', '.join(sorted(shared))}"
            )
        return asked
    anywhere = {column for own in columns for column in own}
    ranks = {column: rank for column in anywhere if (rank := rank_of(column)) is not None}
    if torn := sorted(ranks.keys() - shared):
        raise ValueError(
            f"column {torn[0]}, by its name one of persons, is not in every split, so that they cannot be kept apart; "
            "add it there, or give --group_column none"
        )
    found = min(sorted(ranks), key=ranks.__getitem__, default=None)
    if found:
        others = f", not {', '.join(sorted(ranks.keys() - {found}))}" if len(ranks) > 1 else ""
        logger.info("persons: by column %s%s (--group_column names another one)", found, others)
    return found


def plain_id(cell: Any) -> str:
    """An id without what a person's id should not differ by: Unicode form, and 12.0 for 12."""
    text = unicodedata.normalize("NFC", str(cell))
    return text.removesuffix(".0") if isinstance(cell, float) else text


def alike(text: str) -> str:
    """The same for ids that differ by blanks, case or leading zeros alone."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", "".join(text.split()).casefold())


def with_persons(splits: Splits, args: WayInArguments, notes: list[str]) -> Splits:
    """Splits with the column `person`, a number from 0, in the place of the column that tells whose a row is; as they
    are where there is none.

    Rows without an id are each a person of their own, which `notes` says.

    Raises:
        ValueError: as `person_column` does, or the given splits share persons.
    """
    column = person_column([split.column_names for split in splits.values()], args.group_column)
    if column is None:
        return splits
    cells = {name: texts_of(split, column) for name, split in splits.items()}
    for split in splits.values():
        withhold_column(split, column)
    forms: dict[str, set[str]] = defaultdict(set)
    for found in cells.values():
        for cell in set(found):
            if not is_missing(cell):
                forms[alike(plain_id(cell))].add(plain_id(cell))
    report_missing(cells, column, notes)
    report_alike(forms, column, notes)
    numbers = {key: number for number, key in enumerate(forms)}
    persons, spare = {}, len(numbers)
    for name, found in cells.items():
        own = np.empty(len(found), dtype=np.int64)
        for row, cell in enumerate(found):
            own[row] = spare if is_missing(cell) else numbers[alike(plain_id(cell))]
            spare += is_missing(cell)
        persons[name] = own
    exact = {name: {plain_id(cell) for cell in found if not is_missing(cell)} for name, found in cells.items()}
    check_apart(exact, persons, column, args.allow_shared_groups, notes)
    return {
        name: split.remove_columns([c for c in (column, PERSON) if c in split.column_names]).add_column(
            PERSON, persons[name]
        )
        for name, split in splits.items()
    }


def report_missing(cells: dict[str, list[Any]], column: str, notes: list[str]) -> None:
    """Say how many rows have no id."""
    missing = sum(is_missing(cell) for found in cells.values() for cell in found)
    if missing:
        total = sum(map(len, cells.values()))
        warn(notes, f"{missing} of {total} rows have no {column}: each counts as a person of its own")


def report_alike(forms: dict[str, set[str]], column: str, notes: list[str]) -> None:
    """Say how many ids differ by blanks, case or leading zeros alone."""
    mixed = sum(len(found) > 1 for found in forms.values())
    if mixed:
        warn(
            notes,
            f"{mixed} ids in column {column} are written in several ways, which differ by blanks, case or leading "
            "zeros alone: their rows are kept in one split; write each id in one way",
        )


def check_apart(
    exact: dict[str, set[str]], persons: dict[str, np.ndarray], column: str, allowed: bool, notes: list[str]
) -> None:
    """Count the persons that the given splits share: an error, or where that is allowed or they are alike, a note."""
    counts = []
    for first, other in shared_splits(list(persons)):
        if same := len(exact[first] & exact[other]):
            counts.append(f"{same} in {first} and {other}")
        if shared := len(set(persons[first].tolist()) & set(persons[other].tolist())):
            alike_only = "" if same else ", by ids that differ by blanks, case or leading zeros alone"
            text = f"{shared} persons stand in {first} and in {other}{alike_only}: results on {other} flatter"
            if allowed or not same:
                warn(notes, text)
    if counts and not allowed:
        raise ValueError(
            f"the given splits share persons (column {column}): {', '.join(counts)}, so that results flatter; make "
            "the splits by persons, leave them out to have them cut so, or give --allow_shared_groups true"
        )


def shared_splits(names: list[str]) -> list[tuple[str, str]]:
    """Pairs of splits, train first."""
    order = [name for name in ("train", "validation", "test") if name in names]
    return [(first, other) for number, first in enumerate(order) for other in order[number + 1 :]]


def warn(notes: list[str], text: str) -> None:
    """A warning that the reports repeat."""
    logger.warning("%s", text)
    notes.append(text)
