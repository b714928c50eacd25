"""The tab Text of the Space, asked by `gradio_client`: texts as they are written, validity, codes, messages."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest

pytest.importorskip("gradio", reason="needs gradio; install it with `pip install clinsynth[space]`")
if find_spec("simple_icd_10_cm") is None:  # its import reads 10 MB: not where another process runs these tests
    pytest.skip("needs ICD-10 codes; install them with `pip install clinsynth[text]`", allow_module_level=True)

from gradio_client.exceptions import AppError
from space_server import SPACE, tiny_studio

from clinsynth.data.tasks import load_task


@pytest.fixture(scope="module")
def client() -> Any:
    return tiny_studio().client()


def submit(client: Any, **settings: Any) -> Any:
    asked = {"model": "words", "task": "severity-posts", "label": "mild", **settings}
    return client.submit(**asked, api_name="/text")


def test_texts_come_one_by_one_and_are_valid(client: Any) -> None:
    job = submit(client, count=2, seed=3)
    page, rows, file, note = job.result(timeout=500)
    assert [len(output[1]) for output in job.outputs()][:2] == [1, 2]
    assert "**2 of 2 well-formed**" in note and "not checked" in note and page.count("<article>") == 2
    assert [row["seed"] for row in rows] == [3, 4] and {row["label"] for row in rows} == {"mild"}
    schema = load_task("severity-posts").schema
    for row in rows:
        jsonschema.validate({"text": row["text"]}, schema)
        assert row["synthetic"] is True and row["generator"] == "words"
    assert [json.loads(line) for line in Path(file).read_text().splitlines()] == rows
    again = submit(client, count=1, seed=4).result(timeout=500)[1]
    assert again[0]["text"] == rows[1]["text"]


def test_a_code_of_any_chapter_is_found_and_what_a_model_writes_is_but_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SPACE))
    from text_tab import TextRequest, as_html, describe_validity, search_codes

    from clinsynth.pipelines.structured_medical_text.text_rows import RowResult

    task = TextRequest("words", "icd10-report", "i10", 1, 1.0, 0).labelled_task()
    assert list(task.labels) == ["I10"] and "hypertension" in task.labels["I10"]
    assert search_codes("F41 panic")[0][1] == "F41.0" and "I10" in [code for _, code in search_codes("i10")]
    assert search_codes("no such illness") == []
    results = [RowResult({"risk": "<script>x</script>"}, 7, 2, ["not JSON"]), RowResult(None, 8, 3, ["not JSON"] * 3)]
    assert "&lt;script&gt;" in as_html(results, "I10") and "<script>" not in as_html(results, "I10")
    said = describe_validity(results, 2, 1.0, True)
    assert "**1 of 2 well-formed**" in said and "4 not JSON" in said
    assert "2 to come" in describe_validity(results, 4, 1.0, False)
    assert "Stopped after" in describe_validity(results, 4, 1.0, True)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"count": 33}, "Number of texts must be a number from 1 to 32, got 33"),
        ({"temperature": 3}, "Temperature must be a number from 0 to 2, got 3"),
        ({"label": "sad"}, "Label 'sad' is unknown to severity-posts; give one of non-depressed, mild"),
        ({"task": "icd10-report", "label": "F321x"}, "ICD-10-CM code 'F321x' is unknown; the nearest are F32.1"),
        ({"task": "/etc/hostname.yaml"}, "Task must be one of counselling-questions, icd10-report"),
        ({"model": "gpt"}, "Language model 'gpt' is not one of this Space's: words"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_hint(client: Any, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(AppError) as error:
        submit(client, **settings).result(timeout=500)
    assert said in str(error.value)
