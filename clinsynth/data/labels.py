"""The label column as a `ClassLabel`, and the other columns that may come along."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from datasets import ClassLabel, Dataset, Value

from clinsynth.data.tables import cells_of, column_of, numbers_of

logger = logging.getLogger("clinsynth")

IDENTIFYING_WORDS = frozenset(
    "accession address birth birthdate city date dob email id ids identifier initials insurance mrn name names "
    "patient patientid patientname person phone physician postcode ssn street subject surname telephone uid".split()
)
AGE_WORDS = frozenset("age ages alter edad eta idade leeftijd alder".split())
SUBGROUP_WORDS = AGE_WORDS | {"sex", "gender"}
LONGEST_BYTES = 250
"""Of a class name in UTF-8: files are called as classes."""
MOST_LONG = 5
"""Class names beyond LONGEST_LABEL: more are texts."""
MARKS = frozenset("0 1 0.0 1.0 True False true false".split())
ONES = frozenset("1 1.0 True true".split())
ONE_FINDING = "write a column of 0 and 1 for the finding you mean, and name it with --label_column"
LONGEST_LABEL = 100
"""Characters of a class name: what is longer may be somebody's text, and must not come into a message."""


def with_class_labels(
    splits: dict[str, Dataset], column: str, names: list[str] | None, merge_alike: bool = False
) -> dict[str, Dataset]:
    """Splits whose column `label` is a ClassLabel made from `column`: class names, or numbers from 0.

    Without `names` they are the train split's own, the sorted texts or codes found, or the numbers as text. Names are
    matched by name, in whatever order a split has them; `names` that are others than a split's own rename these by
    their numbers. Where no column is called `label` and others hold one 1 a row, their names are the classes.

    Raises:
        ValueError: no such column, an unknown name, a number out of range, a missing label, several labels a row, or
            names that differ by blanks, case or Unicode form alone and are not to be merged.
    """
    if not any(column in split.column_names for split in splits.values()):
        splits, column = with_found_labels(splits, column)
    check_column(splits, column, "name the right one with --label_column")
    own = {split: getattr(dataset.features[column], "names", None) for split, dataset in splits.items()}
    first = own["train"]
    renames = bool(names and first and set(names) != set(first))
    if renames and len(first or []) != len(names or []):
        raise ValueError(
            f"--label_names gives {len(names or [])} names, but the data set has {len(first or [])} classes "
            f"({first_of(first or [])}); give each one name, in the order of their numbers"
        )
    values = {split: by_name(column_of(dataset, column), own[split], column) for split, dataset in splits.items()}
    if renames:
        new_names = dict(zip(first or [], names or [], strict=True))
        logger.info("classes renamed: %s", first_of(f"{old} to {new}" for old, new in new_names.items()))
        values = {split: [new_names.get(value, value) for value in found] for split, found in values.items()}
    alike = alike_names(names, [name for found in (*own.values(), *values.values()) for name in found or []])
    if alike and not merge_alike:
        pairs = "; ".join(f"{old!a} and {new!a}" for old, new in list(alike.items())[:10])
        raise ValueError(
            f"class names differ by blanks, case or Unicode form alone: {pairs}; write each in one way, or give "
            "--merge_alike_labels true"
        )
    values = {split: [alike.get(value, value) for value in found] for split, found in values.items()}
    joint = [name for found in (first, *own.values()) for name in found or []]
    names = names or list(dict.fromkeys(alike.get(name, name) for name in joint))
    names = names or derive_names([value for found in values.values() for value in found])
    if len(set(names)) < len(names) or "" in names:
        raise ValueError(f"--label_names must differ from each other and not be empty, got {', '.join(names)}")
    result = {}
    for split, dataset in splits.items():
        numbers = [to_number(value, names, f"{split} row {row}") for row, value in enumerate(values[split])]
        dataset = dataset.remove_columns(list({column, "label"} & set(dataset.column_names)))
        result[split] = dataset.add_column("label", numbers, feature=ClassLabel(names=names))
    return result


LABEL_WORDS = frozenset(
    "label labels class classes target diagnosis diagnoses diagnostic diagnose dx category level grade klasse "
    "clase classe etikett etiqueta diagnostico diagnostic".split()
)
BESIDE_LABEL = frozenset("name id code text final ground truth true finding findings image disease clinical".split())


def label_columns(columns: Iterable[str]) -> list[str]:
    """The columns that by their names hold the class, as `diagnosis`, `dx`, `Finding Labels`."""
    nouns = {column: set(words_of(column)) - BESIDE_LABEL for column in columns}
    found = [column for column, words in nouns.items() if len(words) == 1 and words <= LABEL_WORDS]
    findings = [column for column in nouns if words_of(column) in (["finding"], ["findings"])]
    return found or (findings if len(findings) == 1 else [])  # several are marks, a column a finding


def with_found_labels(splits: dict[str, Dataset], column: str) -> tuple[dict[str, Dataset], str]:
    """Splits with a column of classes, and its name, where none is called `column`: of `label` one that is called
    otherwise, or made of columns of 0 and 1; else made of a finding, of rows that name several.

    Raises:
        ValueError: several columns may be meant, or rows have several classes or none.
    """
    features = splits["train"].features
    if column != "label":
        return from_findings(splits, column), column
    found = label_columns(
        name for name in features if not sounds_identifying(name) or name in ("class_id", "label_id")
    )
    if len(found) > 1:
        raise ValueError(
            f"there is no column label, and several may be meant ({', '.join(found)}); name one with --label_column"
        )
    if found:
        logger.info("classes: by column %s (--label_column names another one)", found[0])
        return splits, found[0]
    return from_one_hot(splits, column), column


def from_findings(splits: dict[str, Dataset], finding: str) -> dict[str, Dataset]:
    """Splits with the column `finding`, whether a row names it among several; as they are where no column has it."""
    for name in splits["train"].column_names:
        if getattr(splits["train"].features[name], "dtype", "") != "string":
            continue
        cells = {split: rows[name] if name in rows.column_names else [] for split, rows in splits.items()}
        parts = {split: [findings_of(cell) for cell in own] for split, own in cells.items()}
        if any(len(each) > 1 for each in parts["train"]) and any(finding in each for each in parts["train"]):
            logger.info("classes: whether column %s names %s", name, finding)
            kind = ClassLabel(names=[f"no {finding}", finding])
            held = {split: [int(finding in each) for each in own] for split, own in parts.items()}
            return {split: rows.add_column(finding, held[split], feature=kind) for split, rows in splits.items()}
    return splits


def findings_of(cell: Any) -> list[str]:
    """The findings that a cell names, parted by | or ;."""
    return [part.strip() for part in re.split("[|;]", str(cell or ""))]


def from_one_hot(splits: dict[str, Dataset], column: str) -> dict[str, Dataset]:
    """Splits with the column `label`, where each row has a single 1 in the columns that hold 0 and 1 alone.

    Raises:
        ValueError: a row has several, or none.
    """
    marks = [
        name
        for name in splits["train"].column_names
        if name != "image" and not sounds_identifying(name)
        if all(name in split.column_names and holds_marks(split, name) for split in splits.values())
    ]
    if len(marks) < 2:
        return splits
    table = {s: np.array([[str(cell) in ONES for cell in split[c][:]] for c in marks]) for s, split in splits.items()}
    wrong = sum(int((held.sum(0) != 1).sum()) for held in table.values())
    if wrong:
        raise ValueError(
            f"there is no column {column}; {len(marks)} columns hold 0 and 1 ({first_of(marks, 8)}), but {wrong} rows "
            "have several of them or none, so that no row has one class; choose one finding with --label_column NAME"
        )
    logger.info("classes by columns that hold 0 and 1, one 1 a row: %s", first_of(marks))
    return {
        s: split.remove_columns(marks).add_column("label", [marks[row] for row in table[s].argmax(0)])
        for s, split in splits.items()
    }


def holds_marks(split: Dataset, column: str) -> bool:
    """Whether a column holds 0 and 1 alone."""
    return all(str(cell) in MARKS for cell in cells_of(split, column))


def alike_names(names: list[str] | None, found: list[Any]) -> dict[str, str]:
    """Each class name that differs from another by blanks, case or Unicode form alone, and what it becomes: the most
    frequent of them. Names that were given with --label_names are meant as they are."""
    counts = Counter(value for value in found if isinstance(value, str) and value not in (names or ()))
    kept: dict[str, str] = {plain_name(name): name for name in names or ()}
    result = {}
    for name in sorted(counts, key=lambda name: (-counts[name], not unicodedata.is_normalized("NFC", name), name)):
        first = kept.setdefault(plain_name(name), name)
        if first != name:
            result[name] = first
    return result


def plain_name(name: str) -> str:
    """A class name without blanks around or doubled, case and Unicode form."""
    return " ".join(unicodedata.normalize("NFC", name).split()).casefold()


def check_column(splits: dict[str, Dataset], column: str, hint: str) -> None:
    """Raise a `ValueError` that ends in `hint` for a split without this column."""
    for split, dataset in splits.items():
        if column not in dataset.column_names:
            there = first_of(dataset.column_names)
            raise ValueError(f"{split} has no column {column!r}; it has {there}: {hint}")


def by_name(values: list[Any], own: list[str] | None, column: str) -> list[Any]:
    """Labels as the names `own` where a ClassLabel has some, else as they are.

    Raises:
        ValueError: one of them is a longer text than any class name.
    """
    if own is not None:
        return [own[value] if value is not None and value >= 0 else None for value in values]
    if any(isinstance(value, list) for value in values):
        raise ValueError(f"--label_column {column} holds lists, several labels a row; {ONE_FINDING}")
    if any(isinstance(value, dict) for value in values):
        raise ValueError(f"--label_column {column} holds objects; write each label as a text or a number")
    texts = {value for value in values if isinstance(value, str)}
    several = next(
        (t for t in sorted(texts) for by in "|;" if by in t and {p.strip() for p in t.split(by)} & texts), None
    )
    if several is not None and len(several) <= LONGEST_LABEL:
        raise ValueError(
            f"--label_column {column} holds several labels a row, as {several!r}; choose one finding, as "
            f"--label_column {findings_of(several)[0]!r}"
        )
    bad = next((text for text in sorted(texts) if "\0" in text), None)
    if bad is not None and len(bad) <= LONGEST_LABEL:
        raise ValueError(f"class name {bad[:30]!r} holds a NUL, which no file may be called; write it without")
    long = Counter(value for value in values if isinstance(value, str) and len(value) > LONGEST_LABEL)
    longest = max((len(text.encode(errors="replace")) for text in texts), default=0)
    if longest > LONGEST_BYTES or len(long) > MOST_LONG or 1 in long.values():
        raise ValueError(
            f"--label_column {column} holds texts of up to {longest} bytes, not classes: a name may have "
            f"{LONGEST_BYTES}, and beyond {LONGEST_LABEL} characters must stand in several rows; name the column of "
            "classes, or shorten these"
        )
    return values


def derive_names(values: list[Any]) -> list[str]:
    """Class names from labels: 0 to the highest number where all are whole numbers, else the sorted texts.

    Numbers none of which is below their number are codes, and the classes are those that occur.
    """
    given = [value for value in values if value is not None and value != ""]
    if all(is_number(value) for value in given):
        numbers = sorted({int(float(value)) for value in given})
        if numbers and numbers[0] >= max(2, len(numbers)):
            logger.info("labels are codes, not numbers from 0: %s", first_of(map(str, numbers)))
            return sorted({str(value) for value in given}, key=lambda text: (float(text), text))
        # More classes than rows leave some empty anyway; the bound keeps a stray 999999999 from filling the memory.
        return [str(number) for number in range(min(max(numbers, default=-1) + 1, len(given)))]
    return sorted({value for value in given if isinstance(value, str)})


def first_of(names: Iterable[str], most: int = 40) -> str:
    """`a, b, c` for a message; of more than `most` names the first, and how many there are."""
    listed = list(names)
    more = f", … ({len(listed):,} in all)" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def is_number(value: Any) -> bool:
    """Whether a label is a whole number, as text (1, 1.0) or as a number."""
    if isinstance(value, str):
        return value.removeprefix("-").removesuffix(".0").isdecimal()
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def to_number(value: Any, names: list[str], where: str) -> int:
    if str(value) in names:
        return names.index(str(value))
    if value is None or value == "" or value != value:
        raise ValueError(f"{where} has no label; give it one or remove the row")
    if not is_number(value):
        raise ValueError(
            f"{where}: label {value!r} is unknown; the classes are {', '.join(names) or 'none'}: "
            "make it one of them or a whole number, or name them with --label_names"
        )
    if not 0 <= int(float(value)) < len(names):
        raise ValueError(
            f"{where}: label {value} is out of range; {len(names)} classes are numbered 0 to {len(names) - 1}: "
            "change it, or give all classes their --label_names"
        )
    return int(float(value))


def words_of(column: str) -> list[str]:
    """The words of a column's name, lower and without accents: `PatientID`, `patient id` and `patient_id` alike."""
    plain = unicodedata.normalize("NFKD", column)
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_a-zA-Z]+", plain)]


def sounds_identifying(column: str) -> bool:
    """Whether a column's name has a word such as id, name, patient or birth: image_id, PatientName, date-of-birth.

    A patient's age and sex are subgroups.
    """
    words = set(words_of(column))
    return bool(words & IDENTIFYING_WORDS) and not words & SUBGROUP_WORDS


def check_not_empty(splits: dict[str, Dataset]) -> None:
    """Raises ValueError for a split without rows."""
    for name, split in splits.items():
        if not len(split):
            raise ValueError(f"split {name} is empty; remove it, and it is cut off train")


def persons_of(dataset: Dataset) -> np.ndarray | None:
    """Whose each row of a loaded split is, int64 (n,); None where that is not known."""
    return numbers_of(dataset, PERSON) if PERSON in dataset.column_names else None


AGE_BANDS = (0, 18, 40, 60, 80)  # lower ends, years

OLDEST = 130

UNKNOWN = "unknown"
PERSON = "person"
"""The column in which a loaded split has whose a row is, as a number from 0 that says nothing else."""
LOOK = "number of record"
"""The column in which a loaded split of images has where what was seen of an image is kept; see `data.looks`."""
MAX_GROUPS = 30  # a column with more values than these names rows rather than groups


def subgroups(dataset: Dataset) -> dict[str, np.ndarray]:
    """Texts (n,) of every column but image, label and person that divides the rows into groups.

    Names of a ClassLabel, texts, whole numbers as they are, ages as the bands of `clinsynth summarize`; a missing
    value is "unknown". Columns of other numbers, and those with more than 30 different values, are left out.
    """
    found = {}
    for column, feature in dataset.features.items():
        if column in ("image", "label", PERSON, LOOK) or not isinstance(feature, ClassLabel | Value):
            continue
        values = column_of(dataset, column)
        if isinstance(feature, ClassLabel):
            texts = [feature.names[value] if value is not None and value >= 0 else UNKNOWN for value in values]
        elif AGE_WORDS & set(words_of(column)):  # age, patient_age
            texts = [UNKNOWN if age is None else age_band(age) for age in map(age_of, values)]
        elif feature.dtype.startswith("float"):
            continue
        else:
            texts = [UNKNOWN if value is None or not str(value).strip() else str(value) for value in values]
        if len(set(texts)) <= MAX_GROUPS:
            found[column] = np.array(texts, dtype=str)
    return found


AGE = re.compile(r"[<>≤≥]?=?\s*(\d{1,3}(?:\.\d+)?)\s*(?:\+|y|yrs?|years?|([mwd]))?(?:(?:-|–|to|bis)\s*\d{1,3})?\+?")
IN_A_YEAR = {"m": 12, "w": 52, "d": 365}


def age_of(value: Any) -> float | None:
    """Years, of a number or text: `47`, `047Y`, `005M` as in DICOM, the lower end of `40-49` or `80+`; else None."""
    found = AGE.fullmatch(str(value).strip().lower())
    age = float(found[1]) / IN_A_YEAR.get(found[2], 1) if found else OLDEST
    return age if age < OLDEST else None


class LabelledRows:
    """One split in memory: samples, or features of them, with their labels and subgroups; of frozen dataclasses.

    Attributes:
        noun: what a row is called in messages and in published records.
        rows_in: name of the field that holds the samples, an array of n.
        labels: int64, (n,), each in 0 .. len(label_names) - 1.
        label_names: class names in the order of their numbers.
        groups: subgroup column to its texts (n,), "unknown" where a row has none; see `subgroups`.
        persons: int64 (n,), whose each row is, the same number in all splits; None where that is not known.
        notes: what a reader of results on these rows must know of the way in.
    """

    noun: ClassVar[str]
    rows_in: ClassVar[str]
    labels: np.ndarray
    label_names: list[str]
    groups: dict[str, np.ndarray]
    persons: np.ndarray | None
    notes: tuple[str, ...]

    def take(self, rows: np.ndarray) -> Self:
        """The rows at `rows` (numbers or a mask)."""
        groups = {column: values[rows] for column, values in self.groups.items()}
        persons = None if self.persons is None else self.persons[rows]
        return self._with(getattr(self, self.rows_in)[rows], self.labels[rows], groups, persons)

    def followed_by(self, more: Self) -> Self:
        """These rows and after them those of `more`, whose subgroups and persons count as unknown."""
        values = [getattr(rows, self.rows_in) for rows in (self, more)]
        unknown = np.full(len(more.labels), UNKNOWN)
        groups = {column: np.concatenate([known, unknown]) for column, known in self.groups.items()}
        return self._with(np.concatenate(values), np.concatenate([self.labels, more.labels]), groups, None)

    def _with(
        self, values: np.ndarray, labels: np.ndarray, groups: dict[str, np.ndarray], persons: np.ndarray | None
    ) -> Self:
        fields: dict[str, Any] = {self.rows_in: values, "labels": labels, "groups": groups, "persons": persons}
        return replace(self, **fields)  # type: ignore[type-var]  # a frozen dataclass inherits from this


class LabelledSamples(LabelledRows):
    """Samples as a generator makes them and a classifier takes them.

    Attributes:
        column: of a data set that holds them.
        made_by: the command that writes synthetic ones.
    """

    column: ClassVar[str]
    made_by: ClassVar[str]

    def content(self) -> Iterable[bytes]:
        """The samples as bytes in parts, other ones for other samples."""
        raise NotImplementedError

    def read_like(self, dataset: Dataset) -> Self:
        """The samples and labels of a data set, in the form of these."""
        raise NotImplementedError

    def check_like(self, other: Self, name: str) -> None:
        """Raise a `ValueError` where the samples of `other`, the set called `name`, have another form than these."""


def age_band(age: float) -> str:
    number = int(np.searchsorted(AGE_BANDS, age, side="right"))
    return f"{AGE_BANDS[number - 1]}-{AGE_BANDS[number] - 1}" if number < len(AGE_BANDS) else f"{AGE_BANDS[-1]}+"
