"""What the Review tab does, for its buttons and for `gradio_client` alike."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from limits import MOST_SEED, whole_number
from review_agreement import agreement_table, discrimination_table
from review_scores import check_rater, export_scores, open_session, read_scores, read_session, save_score
from review_session import MAX_SAMPLES, Sample, Sessions, draw_session
from sets import read_set
from uploads import downloadable, error_as_message, removed_afterwards

from clinsynth.checklists import load_checklist

NO_REAL = "none: synthetic samples alone"


class ReviewDesk:
    """Reviews in memory, their scores in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sessions = Sessions()

    @error_as_message
    def start(
        self,
        rater: str,
        checklist: str,
        checklist_file: str | None,
        synthetic: str | None,
        synthetic_file: str | None,
        real: str | None,
        real_file: str | None,
        number: float,
        seed: float,
    ) -> dict[str, Any]:
        """Start or resume: session, samples in the rater's order (id and condition), items, and what is scored."""
        name = check_rater(rater)
        with removed_afterwards(synthetic_file, real_file, checklist_file):
            chosen = load_checklist(checklist_file or checklist)
            made = read_set(synthetic, synthetic_file, "the synthetic set")
            wanted = real_file or real not in (None, "", NO_REAL)
            true = read_set(real, real_file, "the real set") if wanted else None
        count = whole_number("the number of samples", number, 2, MAX_SAMPLES)
        session = draw_session(chosen, made, true, count, whole_number("the seed", seed, 0, MOST_SEED))
        open_session(self.folder, session)
        self.sessions.add(session)
        shown = {sample.condition for sample in session.samples}
        return {
            "session": session.id,
            "rater": name,
            "checklist": f"{chosen.title} (version {chosen.version}, {'' if chosen.is_signed() else 'not '}signed)",
            "notes": list(session.notes),
            "samples": [{"id": sample.id, "condition": sample.condition} for sample in session.order(name)],
            "items": {
                condition: [item.model_dump(include={"id", "question", "criterion"}) for item in items]
                for condition, items in chosen.conditions.items()
                if condition in shown
            },
            "scored": sorted(read_scores(self.folder, session.id).get(name, {})),
        }

    def sample(self, session: str, sample_id: str) -> Sample:
        """A sample of a session in memory."""
        return next(sample for sample in self.sessions.get(session).samples if sample.id == sample_id)

    def given(self, session: str, rater: str) -> dict[str, dict[str, Any]]:
        """Sample id to the rater's last score of it."""
        return read_scores(self.folder, session).get(rater, {})

    @error_as_message
    def score(
        self, session: str, rater: str, sample_id: str, scores: dict[str, int], looks_real: bool | None
    ) -> dict[str, Any]:
        """Save the answers on one sample (item id to 0 or 1; does it look real?); the record with the progress."""
        record = save_score(self.folder, session, rater, sample_id, scores, looks_real)
        total = len(read_session(self.folder, session)["samples"])
        return record | {"scored": len(self.given(session, record["rater"])), "total": total}

    @error_as_message
    def agreement(self, session: str) -> dict[str, Any]:
        """Agreement of the raters on each item, and how well each of them told real from synthetic."""
        values, scores = read_session(self.folder, session), read_scores(self.folder, session)
        return {
            "session": session,
            "raters": list(scores),
            "agreement": agreement_table(values, scores),
            "discrimination": discrimination_table(values, scores),
        }

    @error_as_message
    def export(self, session: str) -> list[str]:
        """All scores of the session as a Parquet and a CSV file, one row an item, sample and rater."""
        with tempfile.TemporaryDirectory() as folder:
            parquet, csv = export_scores(self.folder, session, Path(folder))
            return [downloadable(parquet), downloadable(csv)]
