"""Files beside a model's weights.

This file is copied into every checkpoint and imports nothing from clinsynth.
"""

import json
from pathlib import Path
from typing import Any

from transformers.utils import cached_file


def read_json(model: Any, name: str) -> dict[str, Any] | None:
    """A file that lies beside the model's weights, in its folder or on the Hub; None without it."""
    if not model.name_or_path:
        return None
    path = cached_file(
        model.name_or_path,
        name,
        revision=getattr(model.config, "_commit_hash", None),
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return json.loads(Path(path).read_text(encoding="utf-8")) if path else None


def write_json(values: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
