"""Checklists: those that come with clinsynth, what a bad file is told, and the ids that scores use."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from clinsynth.data.npz import published_names
from clinsynth.data.phantom_fundus import GRADES, LESION_RANGES, draw_fundus
from clinsynth.judges.checklists import Checklist, checklist_names, load_checklist, sample_id


def an_item(**changes: Any) -> dict[str, Any]:
    return {"id": "red", "aspect": "colour", "question": "Is it red?", "criterion": "Red, not brown.", **changes}


def a_checklist(*items: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "name": "small",
        "version": 2,
        "title": "Small",
        "modality": "photograph",
        "source": "a book",
        "conditions": {"spot": list(items or [an_item()])},
        **changes,
    }


def write(folder: Path, values: object) -> Path:
    path = folder / "small.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", checklist_names())
def test_those_that_come_with_clinsynth(name: str) -> None:
    checklist = load_checklist(name)
    assert checklist.name == name
    assert not checklist.is_signed()
    for condition in checklist.conditions:
        assert len(checklist.items(condition)) >= 5
        assert len({item.aspect for item in checklist.items(condition)}) >= 3


def test_conditions_are_called_as_the_classes_of_the_data() -> None:
    assert list(load_checklist("phantom-fundus").conditions) == GRADES
    assert list(load_checklist("retinopathy").conditions) == published_names("retinamnist.npz")
    assert list(load_checklist("chest").conditions) == published_names("pneumoniamnist.npz")
    assert list(load_checklist("dermatoscopy").conditions) == ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]
    assert len(load_checklist("skin").conditions) == 20


def allowed(item_id: str) -> tuple[str, int, int] | None:
    """The lesion and the counts that an id of phantom-fundus stands for, None for an item that counts nothing."""
    if item_id.endswith("_none"):
        return item_id.removesuffix("_none"), 0, 0
    if "_to_" not in item_id:
        return None
    lesion, low, _, high = item_id.rsplit("_", 3)
    return lesion, int(low), int(high)


def test_items_of_the_drawn_eyes_follow_the_counts_that_are_drawn() -> None:
    checklist = load_checklist("phantom-fundus")
    for number, grade in enumerate(GRADES):
        ranges = {found[0]: found[1:] for item in checklist.items(grade) if (found := allowed(item.id))}
        assert ranges == LESION_RANGES[number]
        _, truth = draw_fundus(number, 32, np.random.default_rng(number))
        assert all(low <= truth[lesion] <= high for lesion, (low, high) in ranges.items())


def test_a_file_of_the_users(tmp_path: Path) -> None:
    item = an_item(source="page 3", skin_types={"dark": "Violet."})
    signed = [{"name": "A. Expert", "date": "2026-01-31", "version": 2}]
    checklist = load_checklist(write(tmp_path, a_checklist(item, signed=signed)))
    assert checklist.is_signed()
    assert checklist.items("spot")[0].skin_types == {"dark": "Violet."}
    assert not checklist.model_copy(update={"version": 3}).is_signed()
    with pytest.raises(ValueError, match="frozen"):
        checklist.version = 3  # type: ignore[misc]
    with pytest.raises(ValueError, match="has no condition 'dot'; it has spot"):
        checklist.items("dot")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (a_checklist(titel="x"), ["small.yaml", "titel is not a key"]),
        (a_checklist(an_item(colour="x")), ["condition 'spot'", "item red", "colour is not a key"]),
        (a_checklist(an_item(), an_item(question="Is it blue?")), ["condition 'spot'", "item red", "twice"]),
        (a_checklist(an_item(), an_item(id="two")), ["red and two ask the same", "remove one"]),
        (
            a_checklist(an_item(question="Is there a scale?"), an_item(id="two", question="Is there no scale?")),
            ["red and two contradict each other", "remove one"],
        ),
        (a_checklist(conditions={"spot": []}), ["condition 'spot' has no items", "at least one"]),
        (a_checklist(conditions={}), ["conditions", "empty"]),
        (a_checklist(an_item(aspect="smell")), ["item red, aspect", "'smell'", "lesion_type"]),
        (a_checklist(an_item(question="It is red.")), ["item red, question", "'It is red.'"]),
        (a_checklist({"id": "red"}), ["item red, aspect is missing; add it"]),
        (a_checklist({"aspect": "colour"}), ["item number 1", "id is missing"]),
        (a_checklist(version="new"), ["version", "'new'"]),
        ("name: [", ["small.yaml", "YAML"]),
        ("- a", ["holds no checklist"]),
        ("name: a\nname: b", ["'name' is given twice", "line 2"]),
    ],
)
def test_a_bad_file_names_place_and_mend(tmp_path: Path, values: object, told: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        load_checklist(write(tmp_path, values))
    assert all(words in str(caught.value) for words in told), caught.value


def test_a_condition_given_twice_is_not_dropped(tmp_path: Path) -> None:
    text = yaml.safe_dump(a_checklist()).replace("conditions:\n", "conditions:\n  spot: []\n", 1)
    with pytest.raises(ValueError, match="'spot' is given twice"):
        load_checklist(write(tmp_path, text))


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'measles' is unknown; give .*phantom-fundus, retinopathy"):
        load_checklist("measles")
    with pytest.raises(ValueError, match="there is no such file"):
        load_checklist(tmp_path / "gone.yaml")


def test_python_objects_are_not_built(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read as YAML"):
        load_checklist(write(tmp_path, "name: !!python/object/apply:os.getcwd []"))


def test_a_sample_is_known_by_its_pixels() -> None:
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    buffer = io.BytesIO()
    picture.save(buffer, "BMP")
    again = Image.open(io.BytesIO(buffer.getvalue()))
    assert sample_id(again) == sample_id(picture) == sample_id(picture.convert("RGBA"))
    assert len({sample_id(picture), sample_id(picture.convert("L")), sample_id(picture.rotate(90))}) == 3
    assert sample_id("a") != sample_id("b")
    assert isinstance(load_checklist("phantom-fundus"), Checklist)
