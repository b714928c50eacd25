"""The columns of a Parquet file as `datasets` writes them into its schema, read and written without that library.

Importing `datasets` takes longer than sending a small set. Names, values and YAML here are those of its `Features`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

KEY = b"huggingface"
Columns = dict[str, dict[str, Any]]
"""Name to feature, each as `Features.to_dict` has it: {"dtype": "int64", "_type": "Value"}."""


def value(dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, "_type": "Value"}


def read_columns(schema: pa.Schema) -> Columns:
    """The columns of an Arrow schema; by its Arrow types where `datasets` has not written it."""
    kept = json.loads((schema.metadata or {}).get(KEY, b"{}")).get("info", {}).get("features")
    known = kept if isinstance(kept, dict) and set(kept) == set(schema.names) else {}
    return {field.name: known.get(field.name) or of_type(field.type) for field in schema}


def of_type(kind: pa.DataType) -> dict[str, Any]:
    import pyarrow.types as types

    if types.is_list(kind) or types.is_large_list(kind):
        return {"feature": of_type(kind.value_type), "_type": "List"}
    return value({"double": "float64", "float": "float32"}.get(str(kind), str(kind)))


def to_schema(columns: Columns) -> pa.Schema:
    """The Arrow schema of columns, with what `datasets` needs to know them again and nothing else."""
    import pyarrow as pa

    told = json.dumps({"info": {"features": columns}})
    fields = [(name, arrow_type(feature)) for name, feature in columns.items()]
    return pa.schema(fields, metadata={KEY: told.encode()})


def arrow_type(feature: dict[str, Any]) -> pa.DataType:
    import pyarrow as pa

    kind = feature["_type"]
    if kind == "Image":
        return pa.struct({"bytes": pa.binary(), "path": pa.string()})
    if kind == "ClassLabel":
        return pa.int64()
    if kind == "Value":
        return pa.type_for_alias(feature["dtype"])
    return pa.list_(arrow_type(feature["feature"]))


def to_yaml(columns: Columns) -> list[dict[str, Any]]:
    """The columns as `dataset_info` of a card's YAML lists them."""
    return [{"name": name, **describe(feature)} for name, feature in columns.items()]


def describe(feature: dict[str, Any]) -> dict[str, Any]:
    kind = feature["_type"]
    if kind == "Value":
        return {"dtype": feature["dtype"]}
    if kind == "ClassLabel":
        names = {str(number): name for number, name in enumerate(feature["names"])}
        return {"dtype": {"class_label": {"names": names}}}
    if kind in ("List", "Sequence", "LargeList"):
        inner = describe(feature["feature"])
        return {"list": inner["dtype"] if set(inner) == {"dtype"} else inner}
    return {"dtype": kind.lower()}
