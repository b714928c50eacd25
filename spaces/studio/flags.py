"""Images that visitors flag as wrong: written down by what draws them again, without a pixel."""

from __future__ import annotations

import json
import zipfile
from datetime import UTC, datetime
from typing import Any

import limits
import page
from review_scores import append_line, scores_folder
from sets import SETTINGS_FILE

FLAGGED = ("model", "label", "seed", "guidance_scale", "num_inference_steps", "scheduler")
"""What is written down of an image that is flagged."""
MOST_SETTINGS = 64 << 10
REASONS = ["does not show its class", "no image of this kind", "may show a real person", "other"]


def flag_image(path: str, number: float, reason: str) -> str:
    """Write down that an image is wrong: its model, class, seed and settings, and one of REASONS; no pixel of it."""
    with page.errors_as_messages():
        if reason not in REASONS:
            raise ValueError(f"What is wrong must be one of {', '.join(REASONS)}, got {reason!r}")
        settings = read_settings(path)
        rows = settings["images"]
        row = rows[limits.whole_number("Which image", number, 1, len(rows)) - 1]
        known = {name: (settings | row)[name] for name in FLAGGED}
        record = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "reason": reason, **known}
        folder = scores_folder()
        folder.mkdir(parents=True, exist_ok=True)
        append_line(folder / "flags.jsonl", json.dumps(record, ensure_ascii=False), "this Space holds too many flags")
        return f"Flagged: {row['label']}, seed {row['seed']}: {reason}."


def read_settings(path: str) -> dict[str, Any]:
    """settings.json of a .zip that this tab has handed out.

    Raises:
        ValueError: it is none; a visitor may send another file.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open(SETTINGS_FILE) as file:
            settings: dict[str, Any] = json.loads(file.read(MOST_SETTINGS))
        if all((settings | row).keys() >= set(FLAGGED) for row in settings["images"]):
            return settings
    except (OSError, KeyError, TypeError, AttributeError, ValueError, zipfile.BadZipFile):
        pass
    raise ValueError("what is flagged is no download of this tab; draw images first")
