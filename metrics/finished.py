"""Measurements that a stopped run has finished: kept in its folder, and not taken again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clinsynth.run_folder import atomic_write


class FinishedMeasurements:
    """Measurements of a run that was stopped: a JSON file from key to records, rewritten whole after each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, key: str, measure: Callable[[], Any]) -> Any:
        """What is kept under `key`, else the JSON-able value of `measure()`, which is then kept."""
        if key not in self.records:
            self.records[key] = measure()
            atomic_write(self.path, json.dumps(self.records, indent=1) + "\n")
        return self.records[key]
