"""The other back ends keep what the default one promises; where they allow more, the check of the text refuses it."""

import importlib.util
import json
import re
import sys
from collections import Counter
from typing import Any

import jsonschema
import pytest
import torch
from constrained_texts import EVERYTHING, PLAIN, TOKENIZER, record, text, write
from text_models import tiny_tokenizer

from clinsynth.pipelines.structured_medical_text import GeneratedSamples, Icd10Report, SchemaConstraint
from clinsynth.pipelines.structured_medical_text.schemas import check_text

needs_xgrammar = pytest.mark.skipif(
    importlib.util.find_spec("xgrammar") is None, reason="needs the package xgrammar (extra fast), which is not here"
)
SAMPLES, REPORT = GeneratedSamples.model_json_schema(), Icd10Report.model_json_schema()


@pytest.mark.parametrize("budget", [None, "least", 40])
@pytest.mark.parametrize(
    ("backend", "schema"),
    [
        *(pytest.param("xgrammar", schema, marks=needs_xgrammar) for schema in (EVERYTHING, SAMPLES, REPORT)),
        *(("lm-format-enforcer", schema) for schema in (SAMPLES, REPORT)),
    ],
)
def test_texts_are_valid_and_complete_within_their_budget(
    backend: str, schema: dict[str, Any], budget: int | str | None
) -> None:
    constraint = SchemaConstraint(TOKENIZER, schema, backend)
    limit = constraint.least_tokens + (0 if budget == "least" else int(budget)) if budget else None
    for row in write(constraint, rows=2 if backend == "lm-format-enforcer" else 4, budget=limit):
        written, finished = constraint.decode(row)
        assert finished
        data = json.loads(written)
        jsonschema.validate(data, schema)
        assert list(data) == list(schema["properties"])
        around = re.sub(r'"(\\.|[^"\\])*"', '""', written)
        assert not re.search(r"\s\s" if backend == "lm-format-enforcer" else r"\s\s|[^,:]\s", around)


@needs_xgrammar
def test_lengths_and_patterns_hold_and_what_xgrammar_lets_through_is_refused() -> None:
    free = {"a": text(2, 3), "b": {"type": "string", "pattern": "[xy]{2,3}"}}
    for schema, least in ((record(**free), 90), (record(**free, n={"type": "number"}), 30)):
        constraint, valid, refused = SchemaConstraint(TOKENIZER, schema, "xgrammar"), 0, set()
        for row in write(constraint, rows=96):
            data, reason = check_text(constraint.decode(row)[0], schema)
            refused.add(reason)
            if data is not None:
                valid += 1
                assert 2 <= len(data["a"]) <= 3 and set(data["b"]) <= {"x", "y"} and 2 <= len(data["b"]) <= 3
        assert valid >= least and refused <= {None, "not JSON"}


def test_what_lm_format_enforcer_lets_through_is_refused() -> None:
    constraint, reasons = SchemaConstraint(TOKENIZER, PLAIN, "lm-format-enforcer"), Counter[str | None]()
    for seed in range(3):
        rows = write(constraint, rows=8, seed=seed)
        reasons.update(check_text(constraint.decode(row)[0], PLAIN)[1] for row in rows)
    assert reasons[None] >= 16 and {reason.split()[0] for reason in reasons if reason} <= {"maxLength", "minLength"}


@pytest.mark.parametrize("name", ["é", 'a"b', "a\\b", "a\nb"])
def test_what_lm_format_enforcer_cannot_write_is_refused(name: str) -> None:
    for schema in (
        record(**{name: text()}),
        record(a={"enum": [name]}),
        record(a={"anyOf": [record(**{name: text()})]}),
    ):
        with pytest.raises(
            ValueError, match=r"lm-format-enforcer cannot write .*; leave backend='lm-format-enforcer'"
        ):
            SchemaConstraint(TOKENIZER, schema, "lm-format-enforcer")


@needs_xgrammar
def test_half_a_surrogate_which_xgrammar_allows_is_refused() -> None:
    constraint = SchemaConstraint(TOKENIZER, record(a=text(1, 9)), "xgrammar")
    row = constraint.processor(1, 1).rows[0]
    tokens = [constraint.vocabulary.tokens.index(bytes([byte])) for byte in b'{"a": "\xed\xa0\xbd"}']
    assert row is not None and all(row.take(token) for token in tokens)
    assert check_text(constraint.decode([*tokens, constraint.end_token])[0], record(a=text())) == (None, "not JSON")


@needs_xgrammar
def test_stretches_without_choice_are_forced_as_the_tokenizer_cuts_them() -> None:
    schema = record(presenting_complaint=text(3, 9))
    processor, own = (SchemaConstraint(TOKENIZER, schema, name).processor(1, 1) for name in ("xgrammar", "llguidance"))
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


@pytest.mark.parametrize("backend", [pytest.param("xgrammar", marks=needs_xgrammar), "lm-format-enforcer"])
def test_schemas_and_budgets_are_refused_as_by_the_default_back_end(backend: str) -> None:
    with pytest.raises(ValueError, match=r"\$\.a is a string without maxLength"):
        SchemaConstraint(TOKENIZER, record(a={"type": "string"}), backend)
    constraint = SchemaConstraint(TOKENIZER, record(a=text(9, 20)), backend)
    with pytest.raises(ValueError, match=f"at least {constraint.least_tokens}"):
        constraint.processor(1, 1, constraint.least_tokens - 1)


def test_a_back_end_that_is_unknown_or_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match="backend must be one of llguidance, lm-format-enforcer, xgrammar, got 'outli"
    ):
        SchemaConstraint(TOKENIZER, PLAIN, "outlines")
    monkeypatch.setitem(sys.modules, "xgrammar", None)
    monkeypatch.setitem(sys.modules, "lmformatenforcer", None)
    for name, extra in (("xgrammar", "fast"), ("lm-format-enforcer", "text")):
        with pytest.raises(ImportError, match=rf"needs the package {name}.*pip install clinsynth\[{extra}\]"):
            SchemaConstraint(tiny_tokenizer(), PLAIN, name)
