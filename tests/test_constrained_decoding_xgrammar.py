"""The xgrammar back end keeps what the own one promises; where it allows more, the check of the text refuses it."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from constrained_texts import EVERYTHING, TOKENIZER, record, text, write

from clinsynth.pipelines.structured_medical_text import GeneratedSamples, Icd10Report, SchemaConstraint
from clinsynth.pipelines.structured_medical_text.back_ends import constraint_class
from clinsynth.pipelines.structured_medical_text.schemas import check_text

needs_xgrammar = pytest.mark.skipif(
    importlib.util.find_spec("xgrammar") is None, reason="needs the package xgrammar (extra fast), which is not here"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def constrain(schema: dict[str, Any]) -> SchemaConstraint:
    return constraint_class("xgrammar")(TOKENIZER, schema)


@needs_xgrammar
@pytest.mark.parametrize("budget", [None, "least", 40])
@pytest.mark.parametrize("schema", [EVERYTHING, GeneratedSamples.model_json_schema(), Icd10Report.model_json_schema()])
def test_texts_are_valid_and_complete_within_their_budget(schema: dict[str, Any], budget: int | str | None) -> None:
    constraint = constrain(schema)
    limit = constraint.least_tokens + (0 if budget == "least" else int(budget)) if budget else None
    for row in write(constraint, budget=limit):
        written, finished = constraint.decode(row)
        assert finished
        data = json.loads(written)
        jsonschema.validate(data, schema)
        assert list(data) == list(schema["properties"])
        assert not re.search(r"\s\s|[^,:]\s", re.sub(r'"(\\.|[^"\\])*"', '""', written))


@needs_xgrammar
def test_lengths_and_patterns_hold_and_what_xgrammar_lets_through_is_refused() -> None:
    schema = {**record(a=text(2, 3), b={"type": "string", "pattern": "[xy]{2,3}"}, n={"type": "number"})}
    constraint, valid, refused = constrain(schema), 0, set()
    for seed in range(12):
        for row in write(constraint, rows=8, seed=seed):
            data, reason = check_text(constraint.decode(row)[0], schema)
            refused.add(reason)
            if data is not None:
                valid += 1
                assert 2 <= len(data["a"]) <= 3 and set(data["b"]) <= {"x", "y"} and 2 <= len(data["b"]) <= 3
    assert valid >= 90 and refused <= {None, "not JSON"}


@needs_xgrammar
def test_half_a_surrogate_which_xgrammar_allows_is_refused() -> None:
    constraint = constrain(record(a=text(1, 9)))
    processor = constraint.processor(1, 1)
    tokens = [constraint.tables.number[bytes([byte])] for byte in b'{"a": "\xed\xa0\xbd"}']
    row = processor.rows[0]
    for token in tokens:
        row.next()
        row.waiting = []  # a model's own way to cut the text
        assert row.take(token)
    assert check_text(constraint.decode([*tokens, constraint.end_token])[0], record(a=text())) == (None, "not JSON")


@needs_xgrammar
def test_stretches_without_choice_are_forced_as_the_tokenizer_cuts_them() -> None:
    schema = record(presenting_complaint=text(3, 9))
    processor, own = constrain(schema).processor(1, 1), SchemaConstraint(TOKENIZER, schema).processor(1, 1)
    ids = torch.zeros(1, 1, dtype=torch.long)
    for token in TOKENIZER.encode('{"presenting_complaint": "'):
        for one in (processor, own):
            scores = one(ids, torch.zeros(1, len(TOKENIZER) + 9))
            assert one.forced == [token] and scores.isfinite().nonzero().tolist() == [[0, token]]
        ids = torch.cat([ids, torch.tensor([[token]])], 1)
    scores = processor(ids, torch.zeros(1, len(TOKENIZER) + 9))
    assert processor.forced == [-1] and 100 < int(scores.isfinite().sum()) < len(TOKENIZER)
    with pytest.raises(ValueError, match="no processor may change logits"):
        processor(torch.tensor([[TOKENIZER.eos_token_id]]).expand(1, 2), torch.zeros(1, len(TOKENIZER)))


@needs_xgrammar
def test_schemas_and_budgets_are_refused_as_by_the_own_back_end() -> None:
    with pytest.raises(ValueError, match=r"\$\.a is a string without maxLength"):
        constrain(record(a={"type": "string"}))
    constraint = constrain(record(a=text(9, 20)))
    with pytest.raises(ValueError, match=f"at least {constraint.least_tokens}"):
        constraint.processor(1, 1, constraint.least_tokens - 1)


def test_a_back_end_that_is_unknown_or_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="backend must be one of lm-format-enforcer, xgrammar, got 'outlines'"):
        constraint_class("outlines")
    monkeypatch.setitem(sys.modules, "xgrammar", None)
    monkeypatch.delitem(sys.modules, "clinsynth.pipelines.structured_medical_text.xgrammar_logits", raising=False)
    with pytest.raises(ImportError, match=r"needs the package xgrammar.*pip install clinsynth\[fast\]"):
        constraint_class("xgrammar")
