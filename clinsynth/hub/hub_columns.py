"""The columns of a shard as a card lists them, and those of a set of pictures that can be published as it is.

The latter are known without the library `datasets`, whose import takes longer than sending a small set; about all
others that library is asked.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

KEY = b"huggingface"
"""Under it a Parquet file's metadata says what `datasets` takes its columns for."""
REJECTED = b"rejected"
"""Under it generation counts what it rejected, by reason."""
PLAIN = {"seed": "int64", "synthetic": "bool", "generator": "string", "revision": "string"}
Columns = list[dict[str, Any]]
"""As `dataset_info` of a card lists them: {"name": "seed", "dtype": "int64"}."""


def read_columns(schema: pa.Schema) -> Columns:
    """The columns of a shard."""
    names = label_names(schema)
    if names is not None:
        label = {"class_label": {"names": {str(number): name for number, name in enumerate(names)}}}
        return [{"name": name, "dtype": kind} for name, kind in {"image": "image", "label": label, **PLAIN}.items()]
    from datasets import Features

    found: Columns = Features.from_arrow_schema(schema)._to_yaml_list()
    return found


def label_names(schema: pa.Schema) -> list[str] | None:
    """The class names of a set of pictures that say where they are from; None of any other columns or metadata."""
    metadata = dict(schema.metadata or {})
    metadata.pop(REJECTED, None)
    try:
        names = json.loads(metadata[KEY])["info"]["features"]["label"]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return names if schema.with_metadata(metadata).equals(marked_schema(names), check_metadata=True) else None


def marked_schema(names: list[str]) -> pa.Schema:
    """The schema that `datasets` gives a set of pictures of these classes that say where they are from."""
    import pyarrow as pa

    label = {"names": names, "_type": "ClassLabel"}
    plain = {name: {"dtype": kind, "_type": "Value"} for name, kind in PLAIN.items()}
    told = {"info": {"features": {"image": {"_type": "Image"}, "label": label, **plain}}}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    kinds = [(name, pa.type_for_alias(kind)) for name, kind in PLAIN.items()]
    return pa.schema([("image", image), ("label", pa.int64()), *kinds], metadata={KEY: json.dumps(told).encode()})
