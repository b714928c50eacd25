"""The tab Review: score images or texts against a checklist, blinded, one at a time, by mouse or keyboard."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import gradio as gr
import limits
import page
from drawn_sets import checklist_for, default_sets, drawn_names, read_any
from models import ModelList
from page import HandOver, downloadable, errors_as_messages, escape, removed_afterwards, set_fields
from review_scores import (
    agreement_table,
    check_key,
    check_rater,
    claim_name,
    discrimination_table,
    export_scores,
    open_session,
    read_scores,
    read_session,
    save_score,
    scores_folder,
)
from review_session import LABEL_ONLY, Sample, Sessions, draw_session, label_checklist, shown_image
from sets import read_set

from clinsynth.judges.checklists import checklist_names, load_checklist

INTRODUCTION = (
    "Score samples against a checklist without being told which are real; real sets show real samples. The default is "
    "an example: press Start. Scores are kept for each rater: start again with the same name, key, sets, number and "
    "seed to go on. Uploads are removed once they are read."
)
KEYS = (
    "Keys: **1** to **9** tick an item (yes), **y** / **n** / **c** answer “Does it look real?”, **Enter** or **→** "
    "save and go on, **←** goes back."
)
ONE_BELOW_ANOTHER = "<style>#review-items .wrap {flex-direction: column; align-items: stretch;}</style>"
YES, NO, UNSURE = "Yes (y)", "No (n)", "Cannot tell (c)"
ANSWERS = {YES: True, NO: False, UNSURE: None}
AGREEMENT = ["item", "value", "statistic", "agreement", "samples", "note"]
DISCRIMINATION = ["rater", "what", "right", "n", "rate", "low", "high"]
ON_LOAD = (Path(__file__).parent / "review_keys.js").read_text(encoding="utf-8")
NO_REAL = "none: synthetic samples alone"
SUFFIXES = [".parquet", ".csv", ".jsonl"]
SNIPPET = """from gradio_client import Client

client = Client("http://127.0.0.1:7860")
plan = client.predict("Ann", number=10, api_name="/review_start")
first = plan["samples"][0]
scores = {item["id"]: 1 for item in plan["items"][first["condition"]]}
client.predict(plan["session"], "Ann", first["id"], scores, True, plan["key"], api_name="/review_score")
client.predict(plan["session"], api_name="/review_agreement")
"""


def build(models: ModelList | None = None) -> HandOver:
    """The components of the tab, inside the `gr.Blocks` that is open; where a set may be handed over to."""
    desk = ReviewDesk(scores_folder(), models)
    gr.Markdown(INTRODUCTION)
    with gr.Accordion("What to review", open=True) as setup:
        inputs = build_setup(models)
        start = gr.Button("Start or resume", variant="primary")
    plan = gr.JSON(visible=False, label="plan")
    position = gr.State(0)
    with gr.Column(visible=False, elem_id="review-panel") as panel:
        view, (back, following) = build_panel()
    with gr.Accordion("Results", open=False):
        build_results(desk, plan)
    outputs = [position, panel, *view]

    @errors_as_messages()
    def show_first(values: dict[str, Any]) -> list[Any]:
        unscored = [i for i, sample in enumerate(values["samples"]) if sample["id"] not in values["scored"]]
        return show_sample(desk, values, unscored[0] if unscored else len(values["samples"]))

    started = start.click(desk.start, inputs, plan, api_name="review_start", concurrency_limit=2)
    started.success(lambda values: values["key"], plan, inputs[-1], api_visibility="private")
    shown = started.success(show_first, plan, outputs, api_visibility="private")
    uploads = [field for field in inputs if isinstance(field, gr.File)]
    closed = [setup, *uploads]  # what was uploaded is removed by now
    shown.success(lambda: [gr.Accordion(open=False), None, None, None], None, closed, api_visibility="private")

    @errors_as_messages()
    def go_back(values: dict[str, Any], at: int) -> list[Any]:
        return show_sample(desk, values, max(0, at - 1))

    @errors_as_messages()
    def save_and_go_on(values: dict[str, Any], at: int, ticked: list[str], looks_real: str | None) -> list[Any]:
        if at == len(values["samples"]):
            return show_sample(desk, values, at)
        if looks_real is None:
            raise ValueError("“Does it look real?” has no answer yet; press y, n or c")
        sample = values["samples"][at]
        scores = {item["id"]: int(item["id"] in ticked) for item in values["items"][sample["condition"]]}
        desk.score(values["session"], values["rater"], sample["id"], scores, ANSWERS[looks_real], values["key"])
        return show_sample(desk, values, at + 1)

    *_, items, _, looks_real = view
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    back.click(go_back, [plan, position], outputs, **quiet)
    following.click(save_and_go_on, [plan, position, items, looks_real], outputs, **quiet)
    gr.api(desk.score, api_name="review_score")
    page.snippet(SNIPPET)
    _, checklist, _, _, synthetic_file, *_ = inputs
    return HandOver(synthetic_file, (checklist, checklist_for))


def build_setup(models: ModelList | None) -> list[gr.components.Component]:
    """Rater, checklist, sets, number, seed and key, in the order of `ReviewDesk.start`."""
    made, true = default_sets(models)
    with gr.Row():
        rater = gr.Textbox(label="Rater", placeholder="your name or initials", max_length=40)
        checklist = gr.Dropdown([*checklist_names(), LABEL_ONLY], value="phantom-fundus", label="Checklist")
        checklist_file = gr.File(
            label="Or a checklist of your own (.yaml)", file_types=[".yaml"], height=160, min_width=280
        )
    with gr.Row():
        synthetic, synthetic_file = set_fields("Synthetic set", made, SUFFIXES, *drawn_names(models))
    with gr.Row():
        real, real_file = set_fields("Real set", true, SUFFIXES, NO_REAL)
    with gr.Row():
        number = gr.Slider(2, limits.MOST_REVIEWED, value=20, step=1, label="Samples")
        seed = gr.Number(0, precision=0, label="Seed", minimum=0)
        key = gr.Textbox(
            label="Key", info="given out at the first start, so that nobody else scores under your name", max_length=40
        )
    return [rater, checklist, checklist_file, synthetic, synthetic_file, real, real_file, number, seed, key]


def build_panel() -> tuple[list[gr.components.Component], list[gr.Button]]:
    """What shows a sample and takes its score, and the buttons back and next."""
    progress = gr.Markdown(elem_id="review-progress")
    with gr.Row():
        with gr.Column(min_width=280):
            image = gr.Image(label="Sample", format="png", type="pil", interactive=False, buttons=[], visible=False)
            text = gr.Textbox(label="Sample", lines=6, interactive=False, visible=False)
        with gr.Column(min_width=280):
            items = gr.CheckboxGroup([], label="What is so?", elem_id="review-items")
            criteria = gr.Markdown(elem_id="review-criteria")
            real = gr.Radio(list(ANSWERS), label="Does it look real?", elem_id="review-real")
            with gr.Row():
                back = gr.Button("← Back", elem_id="review-back", min_width=80)
                following = gr.Button("Save and next →", variant="primary", elem_id="review-next", min_width=120)
    gr.Markdown(KEYS)
    gr.HTML(ONE_BELOW_ANOTHER, js_on_load=ON_LOAD)
    return [progress, image, text, items, criteria, real], [back, following]


def show_sample(desk: ReviewDesk, plan: dict[str, Any], at: int) -> list[Any]:
    """Values of position, panel and view for the sample at position `at`; behind the last one is the end."""
    check_key(desk.folder, plan["session"], plan["rater"], plan["key"])
    if at == len(plan["samples"]):
        return show_end(desk, plan)
    place = plan["samples"][at]
    sample = desk.sample(plan["session"], place["id"])
    given = desk.given(plan["session"], plan["rater"])
    before = given.get(sample.id)
    items = plan["items"][sample.condition]
    choices = [(f"{number}. {item['question']}", item["id"]) for number, item in enumerate(items, start=1)]
    ticked = [item for item, score in before["scores"].items() if score] if before else []
    answered = None if before is None else {yes: answer for answer, yes in ANSWERS.items()}[before["looks_real"]]
    criteria = "\n".join(f"{number}. {escape(item['criterion'])}" for number, item in enumerate(items, start=1))
    return [
        at,
        gr.Column(visible=True),
        describe_progress(plan, at, len(given), before is not None),
        *show_content(sample.content),
        gr.CheckboxGroup(choices, value=ticked, visible=True),
        f"**Yes means**\n\n{criteria}",
        gr.Radio(value=answered, visible=True),
    ]


def show_end(desk: ReviewDesk, plan: dict[str, Any]) -> list[Any]:
    """What stands in the place of a sample when all are passed."""
    total = len(plan["samples"])
    left = total - len(desk.given(plan["session"], plan["rater"]))
    said = (
        f"**{left} of {total} samples have no score yet.** ← Back goes to them."
        if left
        else f"**The end: all {total} samples are scored. Thank you.** “Results” below has the agreement and the "
        "export. ← Back changes a score."
    )
    hidden = [gr.Image(visible=False), gr.Textbox(visible=False), gr.CheckboxGroup([], visible=False)]
    return [total, gr.Column(visible=True), said, *hidden, "", gr.Radio(value=None, visible=False)]


def show_content(content: bytes | str) -> tuple[gr.Image, gr.Textbox]:
    """The image and the text of a sample, one of them hidden."""
    if isinstance(content, str):
        return gr.Image(visible=False), gr.Textbox(content, visible=True)
    return gr.Image(shown_image(content), visible=True, alt_text="the sample"), gr.Textbox(visible=False)


def describe_progress(plan: dict[str, Any], at: int, scored: int, has_score: bool) -> str:
    total = len(plan["samples"])
    parts = [f"**Sample {at + 1} of {total}** · should show **{escape(plan['samples'][at]['condition'])}**"]
    parts.append(f"{scored} scored" if scored < total else f"all {total} scored: see the results below")
    parts += [f"your key: {plan['key']}"] if at == 0 else []
    parts += ["this one has a score"] if has_score and scored < total else []
    return "\n\n".join([" · ".join(parts), *(escape(note) for note in plan["notes"])])


def build_results(desk: ReviewDesk, plan: gr.JSON) -> None:
    """Agreement, discrimination and the export of the session under way, or of one given by its id."""
    session = gr.Textbox(label="Review", info="filled in by “Start or resume”", max_length=16)
    plan.change(lambda values: values["session"] if values else "", plan, session, api_visibility="private")
    with gr.Row():
        measure = gr.Button("Agreement and discrimination")
        export = gr.Button("Export the scores")
    raw = gr.JSON(visible=False, label="results")
    agreement = gr.Dataframe(headers=AGREEMENT, label="Agreement of the raters", interactive=False, wrap=True)
    discrimination = gr.Dataframe(
        headers=DISCRIMINATION, label="Real told from synthetic (95 % Wilson interval)", interactive=False, wrap=True
    )
    files = gr.File(label="scores.parquet and scores.csv", file_count="multiple", interactive=False, height=140)
    measured = measure.click(desk.agreement, session, raw, api_name="review_agreement")
    measured.success(
        lambda found: (table_rows(found["agreement"], AGREEMENT), table_rows(found["discrimination"], DISCRIMINATION)),
        raw,
        [agreement, discrimination],
        api_visibility="private",
    )
    export.click(desk.export, session, files, api_name="review_export")


def table_rows(rows: list[dict[str, Any]], columns: list[str]) -> list[list[Any]]:
    """Cells in the order of the columns, numbers with three decimals, a dash where there is none."""
    cells = [[row.get(column) for column in columns] for row in rows]
    return [["–" if c is None else f"{c:.3f}" if isinstance(c, float) else str(c) for c in line] for line in cells]


class ReviewDesk:
    """Reviews in memory, their scores in `folder`."""

    def __init__(self, folder: Path, models: ModelList | None = None) -> None:
        self.folder, self.models = folder, models
        self.sessions = Sessions()

    @errors_as_messages()
    def start(
        self,
        rater: str,
        checklist: str = "phantom-fundus",
        checklist_file: str | None = None,
        synthetic: str | None = None,
        synthetic_file: str | None = None,
        real: str | None = None,
        real_file: str | None = None,
        number: float = 20,
        seed: float = 0,
        key: str | None = None,
    ) -> dict[str, Any]:
        """Start or resume: session, key, samples in the rater's order (id and condition), items, what is scored."""
        name = check_rater(rater)
        with removed_afterwards(synthetic_file, real_file, checklist_file):
            made = read_any(self.models, synthetic, synthetic_file, "the synthetic set")
            labels_alone = checklist == LABEL_ONLY and not checklist_file
            chosen = label_checklist(made.labels) if labels_alone else load_checklist(checklist_file or checklist)
            wanted = real_file or real not in (None, "", NO_REAL)
            true = read_set(real, real_file, "the real set") if wanted else None
        session = draw_session(chosen, made, true, number, seed)
        open_session(self.folder, session)
        self.sessions.add(session)
        shown = {sample.condition for sample in session.samples}
        return {
            "session": session.id,
            "rater": name,
            "key": claim_name(self.folder, session.id, name, key),
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

    @errors_as_messages()
    def score(
        self, session: str, rater: str, sample_id: str, scores: dict[str, int], looks_real: bool | None, key: str
    ) -> dict[str, Any]:
        """Save the answers on one sample (item id to 0 or 1; does it look real, null for cannot tell) under the key
        that the start gave; the record with the progress."""
        read_session(self.folder, session)
        check_key(self.folder, session, check_rater(rater), key)
        record = save_score(self.folder, session, rater, sample_id, scores, looks_real)
        total = len(read_session(self.folder, session)["samples"])
        return record | {"scored": len(self.given(session, record["rater"])), "total": total}

    @errors_as_messages()
    def agreement(self, session: str) -> dict[str, Any]:
        """Agreement of the raters on each item, and how well each of them told real from synthetic."""
        values, scores = read_session(self.folder, session), read_scores(self.folder, session)
        return {
            "session": session,
            "raters": list(scores),
            "agreement": agreement_table(values, scores),
            "discrimination": discrimination_table(values, scores),
        }

    @errors_as_messages()
    def export(self, session: str) -> list[str]:
        """All scores of the session as a Parquet and a CSV file, one row an item, sample and rater."""
        with tempfile.TemporaryDirectory() as folder:
            paths = export_scores(self.folder, session, Path(folder))
            return [downloadable(path.name, path.read_bytes()) for path in paths]
