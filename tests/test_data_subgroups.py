"""Subgroup columns of a data set."""

from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Value

from clinsynth.data.arguments import ImageDataArguments
from clinsynth.data.images import load_image_dataset
from clinsynth.data.labels import subgroups


def test_columns_become_texts():
    features = Features(
        label=ClassLabel(names=["a", "b"]),
        sex=ClassLabel(names=["female", "male"]),
        patient_age=Value("float32"),
        skin_type=Value("int64"),
        site=Value("string"),
        brightness=Value("float32"),
    )
    rows = {
        "label": [0, 1, 0],
        "sex": [1, None, 0],
        "patient_age": [7.0, float("nan"), 63.0],
        "skin_type": [1, 6, None],
        "site": ["back", "", None],
        "brightness": [0.1, 0.2, 0.3],
    }
    found = subgroups(Dataset.from_dict(rows, features=features))
    assert {name: values.tolist() for name, values in found.items()} == {
        "sex": ["male", "unknown", "female"],
        "patient_age": ["0-17", "unknown", "60-79"],
        "skin_type": ["1", "6", "unknown"],
        "site": ["back", "unknown", "unknown"],
    }


def test_a_column_that_names_rows_is_no_subgroup():
    assert subgroups(Dataset.from_dict({"label": [0] * 40, "site": [str(i) for i in range(40)]})) == {}


def test_ham10000_has_ages_sexes_and_sites(shared_data: Path):
    test = load_image_dataset(ImageDataArguments(dataset=str(shared_data / "ham10000_128")))["test"]
    found = subgroups(test)
    assert set(found) == {"age", "sex", "localization"}
    assert set(found["sex"]) == {"female", "male", "unknown"}
    assert set(found["age"]) == {"0-17", "18-39", "40-59", "60-79", "80+", "unknown"}
    assert all(len(values) == len(test) and values.dtype.kind == "U" for values in found.values())
    assert np.isin("unknown", found["localization"])
