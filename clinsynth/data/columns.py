"""Which columns of a data set come in beside samples and labels: declared subgroups, and a few that are known.

A column is known by its name *and* by every one of its values, in all splits together: a column `sex` that holds notes
is no subgroup. Nothing else comes in, and its values are withheld from whatever is written (`clinsynth.withheld`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Any

from datasets import ClassLabel, Dataset, Value

from clinsynth.data.labels import AGE_WORDS, MAX_GROUPS, UNKNOWN, age_of, sounds_identifying, words_of
from clinsynth.data.tables import cells_of, column_of
from clinsynth.withheld import release, withhold

logger = logging.getLogger("clinsynth")

MISSING = frozenset({"", "nan", "none", "null", "na", "n/a", "<na>", "nat", UNKNOWN, "not recorded", "missing"})
"""What stands for no value, in any case."""

BODY = frozenset(
    """abdomen abdominal acral ankle anterior anus arm armpit axilla back bone brain breast buttock buttocks cervix
    cheek chest chin colon distal ear elbow extremity eye face facial finger fingers foot forearm forehead genital
    genitalia groin hand hands head heart hip kidney knee lateral leg limb lip liver lower lung mouth nail neck
    nose oral palm palms pelvis posterior prostate proximal rectum scalp shoulder skin sole soles spine stomach
    temple thigh thorax throat toe toes tongue torso trunk upper wrist left
    right and of the other""".split()
)
SEXES = frozenset(
    """f m w d x o u female male woman man women men girl boy other diverse divers nonbinary non-binary intersex
    weiblich männlich femme homme mujer hombre femenino masculino feminino 0 1 2 9""".split()
)
SIDES = frozenset("l r b left right both bilateral unilateral od os ou links rechts".split())
VIEWS = frozenset("ap pa lat lateral ll rl cc mlo ml lm frontal oblique axial coronal sagittal".split())
SKIN = re.compile(r"(type\s*)?((i{1,3}|iv|vi?)([-/](i{1,3}|iv|vi?))?|[1-6](\.0)?([-/]?[1-6])?|10|[7-9])")

SEX_WORDS = frozenset("sex gender geschlecht sexo sexe sesso geslacht".split())
SKIN_WORDS = frozenset("fitzpatrick phototype skintype skintone hauttyp".split())
SIDE_WORDS = frozenset("laterality side eye".split())
VIEW_WORDS = frozenset("view viewposition projection".split())
SITE_WORDS = frozenset("localization localisation location site anatom bodypart bodysite region".split())


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: None, not a number, blank, or a word for it."""
    return value is None or str(value).strip().lower() in MISSING


def is_known(column: str, values: Iterable[str]) -> bool:
    """Whether a column is a subgroup by its name and by its different `values`, without those that are missing; of
    none, whether its name fits."""
    words, values = set(words_of(column)), [value.strip().lower() for value in values]
    if words & AGE_WORDS:
        return all(age_of(value) is not None for value in values)
    if words & SEX_WORDS:
        return set(values) <= SEXES
    if words & SKIN_WORDS or {"skin", "type"} <= words or {"skin", "tone"} <= words:
        return all(SKIN.fullmatch(value) for value in values)
    if words & SITE_WORDS or {"body", "part"} <= words:
        return len(values) <= MAX_GROUPS and {word for value in values for word in re.split(r"[\W_]+", value)} <= BODY
    return (bool(words & SIDE_WORDS) and set(values) <= SIDES) or (bool(words & VIEW_WORDS) and set(values) <= VIEWS)


def texts_of(dataset: Dataset, column: str) -> list[Any]:
    """The cells of a column, those of a ClassLabel by name."""
    feature, cells = dataset.features[column], column_of(dataset, column)
    if isinstance(feature, ClassLabel):
        return [feature.names[cell] if cell is not None and cell >= 0 else None for cell in cells]
    return cells


def with_subgroups(
    splits: dict[str, Dataset], declared: list[str] | None, own: list[str], left: frozenset[str] = frozenset()
) -> tuple[dict[str, Dataset], list[str], list[str]]:
    """Splits of the columns `own` and the subgroups, decided once for all splits; the names of these, and of what was
    left out.

    Args:
        declared: `--subgroups`; where it is None, those that are known come in.
        left: columns that are no subgroups and need no mention.

    Raises:
        ValueError: a declared subgroup that a split lacks, that is no plain column, or that names rows, not groups.
    """
    shared = set.intersection(*(set(split.column_names) for split in splits.values()))
    others = sorted({name for split in splits.values() for name in split.column_names} - set(own) - left)
    kept = known(splits, shared, own) if declared is None else check_declared(splits, declared, shared)
    out = [column for column in others if column not in kept]
    for split in splits.values():
        for column in (column for column in out if column in split.column_names):
            withhold_column(split, column)
    for split in splits.values():
        release(value for column in kept for value in set(texts_of(split, column)))
        release(split.features["label"].names)
    if out:
        logger.info("columns left out (--subgroups names those that may come in): %s", "; ".join(map(reason, out)))
    return {name: split.select_columns([*own, *kept]) for name, split in splits.items()}, kept, out


def withhold_column(split: Dataset, column: str) -> None:
    """Let no writer show the texts of a column."""
    if getattr(split.features[column], "dtype", "") in ("string", "large_string"):
        withhold(column, (cell for cell in cells_of(split, column) if cell))


def reason(column: str) -> str:
    """A column's name, and whether it may identify a person."""
    return f"{column} (may identify a person)" if sounds_identifying(column) else column


def known(splits: dict[str, Dataset], shared: set[str], own: list[str]) -> list[str]:
    """The columns that are subgroups by name and values."""
    plain = [c for c in sorted(shared - set(own)) if isinstance(splits["train"].features[c], ClassLabel | Value)]
    named = [column for column in plain if not sounds_identifying(column)]
    fitting = [column for column in named if is_known(column, ())]
    return [column for column in fitting if is_known(column, values_of(splits, column))]


def values_of(splits: dict[str, Dataset], column: str) -> set[str]:
    """The different values of a column in all splits, as texts, without those that are missing."""
    cells = {cell for split in splits.values() for cell in set(texts_of(split, column))}
    return {str(cell) for cell in cells if not is_missing(cell)}


def check_declared(splits: dict[str, Dataset], declared: list[str], shared: set[str]) -> list[str]:
    """`declared`, each a plain column of every split with few values, ages or other numbers."""
    for column in declared:
        if column not in shared:
            there = ", ".join(sorted(shared)) or "none"
            raise ValueError(f"--subgroups {column}: not every split has such a column; they share {there}")
        feature = splits["train"].features[column]
        if not isinstance(feature, ClassLabel | Value):
            raise ValueError(f"--subgroups {column}: its cells are no plain values; leave it out")
        found = values_of(splits, column)
        measured = feature.dtype.startswith("float") or set(words_of(column)) & AGE_WORDS
        if len(found) > MAX_GROUPS and not measured:
            raise ValueError(
                f"--subgroups {column}: {len(found)} different values are rows' names rather than groups, of which "
                f"there may be {MAX_GROUPS}; leave it out or band its values"
            )
    return sorted(declared)
