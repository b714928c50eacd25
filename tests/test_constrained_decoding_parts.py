"""What constrained decoding is made of: bytes, tables, bounded schemas, the check of a text, and drawing."""

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from constrained_texts import TOKENIZER, record, text
from text_models import tiny_tokenizer
from transformers import TopPLogitsWarper

from clinsynth.pipelines.structured_medical_text import (
    GeneratedSamples,
    SchemaConstraint,
    json_string_bytes,
    token_tables,
)
from clinsynth.pipelines.structured_medical_text.schema_bounds import bounded
from clinsynth.pipelines.structured_medical_text.schemas import check_text
from clinsynth.pipelines.structured_medical_text.seeded_sampling import SeededSampling


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_tables_are_kept_on_disk_and_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = token_tables.token_bytes(TOKENIZER)
    built = token_tables.read_or_build(tokens)
    (path,) = (tmp_path / "clinsynth" / "tokens").iterdir()
    np.load(path, allow_pickle=False).close()
    with monkeypatch.context() as patch:
        patch.setattr(token_tables, "build", lambda tokens: pytest.fail("built though it lies on disk"))
        read = token_tables.read_or_build(tokens)
    assert (read.ends == built.ends).all() and read.tokens == tokens
    path.write_bytes(path.read_bytes()[:1000])
    assert (token_tables.read_or_build(tokens).ends == built.ends).all()
    assert "cannot be read" in caplog.text
    token_tables.read_or_build([*tokens, b"new"])
    assert len(list(path.parent.iterdir())) == 2


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (record(a={"type": "string"}), r"\$\.a is a string without maxLength"),
        (record(a=text(5, 3)), r"\$\.a cannot be met: minLength is 5 and maxLength 3"),
        (record(a={"$ref": "#"}), r"holds itself \(#\) without bound"),
        ({"$defs": {"n": record(a={"$ref": "#/$defs/n"})}, **record(b={"$ref": "#/$defs/n"})}, "holds itself"),
        (record(a={"$ref": "#/$defs/x"}), "refers to #/[$]defs/x, which it does not hold"),
        (record(a={"type": "string", "pattern": "a+"}), "has no longest match"),
        (record(a={"type": "string", "pattern": "(?=a)[ab]{1,2}"}), "cannot be met: no way leads to a text's end"),
        (record(a={"anyOf": [text(), text(1, 2)]}), "begin alike"),
        (record(a={"enum": ["a", 1]}), "strings alone or of numbers alone"),
        (record(a={"type": "array", "items": text(), "minItems": 3, "maxItems": 2}), "minItems is 3 and maxItems 2"),
        (record(a={"type": "integer", "minimum": 3, "maximum": 2}), "no whole number lies between"),
        (record(a={"type": "object"}), "object without properties"),
        (record(a={}), "no type that can be generated"),
        ({"type": "array", "items": text()}, "must be of type object"),
        ({**record(a=text()), "required": ["b"]}, "requires 'b'"),
    ],
)
def test_schemas_that_cannot_be_generated_are_refused_by_place(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SchemaConstraint(TOKENIZER, schema)


def test_references_alternatives_and_order_are_filled_in() -> None:
    schema = {**record(b={"$ref": "#/$defs/T"}, a={"type": ["null", "boolean"]}), "$defs": {"T": text(1, 2)}}
    form = bounded({**schema, "required": ["a"]})
    assert form["required"] == ["b", "a"] and form["properties"]["b"] == text(1, 2)
    assert form["properties"]["a"] == {"anyOf": [{"type": "null"}, {"type": "boolean"}]}


def test_tokenizers_that_cannot_serve_are_refused() -> None:
    blind = tiny_tokenizer()
    blind.eos_token = None
    with pytest.raises(ValueError, match="no end token"):
        SchemaConstraint(blind, record(a=text()))
    with pytest.raises(ValueError, match="double quote"):
        token_tables.build([b"a", b"b"])
    constraint = SchemaConstraint(TOKENIZER, record(a=text(9, 20)))
    with pytest.raises(ValueError, match=f"at least {constraint.least_tokens}"):
        constraint.processor(1, 1, constraint.least_tokens - 1)
    with pytest.raises(ValueError, match="load the tokenizer of this model"):
        constraint.processor(1, 1)(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 30))


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ('{"a": "', "not JSON"),
        ('{"a": 3}', "type at $.a"),
        ('{"a": "secret words"}', "maxLength at $.a"),
        ("{}", "required at $"),
        ('{"a": NaN}', "not JSON"),
        ('{"a": 1e999}', "not JSON"),
        ('{"a": "\\ud83d"}', "not JSON"),
        (b'{"a": "\xed\xa0\xbd"}'.decode(errors="surrogateescape"), "not JSON"),
    ],
)
def test_a_refusal_names_its_reason_and_nothing_of_the_text(written: str, reason: str) -> None:
    assert check_text(written, {**record(a=text(0, 5)), "required": ["a"]}) == (None, reason)


def test_pydantic_refuses_with_a_reason_too() -> None:
    data, reason = check_text('{"samples": ["too short"]}', GeneratedSamples)
    assert data is None and reason == "string_too_short at $.samples.0"


def draw(scores: torch.Tensor, seeds: list[int], **settings: Any) -> torch.Tensor:
    arguments = {"temperature": 1.0, "top_p": 1.0, "prompt_length": 3, "max_tokens": 4, **settings}
    return SeededSampling(seeds, **arguments)(torch.zeros(len(scores), 3), scores.clone()).argmax(1)


def test_a_row_draws_the_same_whatever_rows_are_beside_it() -> None:
    scores = torch.randn(6, 5000, generator=torch.Generator().manual_seed(0))
    seeds = [11, 12, 13, 14, 15, 16]
    together = draw(scores, seeds, top_p=0.9)
    alone = [draw(scores[i : i + 1], seeds[i : i + 1], top_p=0.9).item() for i in range(6)]
    assert together.tolist() == alone
    assert draw(scores, seeds, temperature=0).tolist() == scores.argmax(1).tolist()


@pytest.mark.parametrize("spread", [0.1, 4.0])  # the nucleus is wider, and narrower, than what is looked at first
def test_the_nucleus_is_the_one_of_transformers_and_shares_are_those_of_the_softmax(spread: float) -> None:
    row = torch.randn(1, 3000, generator=torch.Generator().manual_seed(1)) * spread
    kept = TopPLogitsWarper(0.8)(None, row.clone())[0]
    sampling = SeededSampling([0], 1.0, 0.8, 3, 4)
    chances = torch.softmax(row, 1)
    assert (chances[0] >= sampling.cutoff(chances)[0]).tolist() == kept.isfinite().tolist()
    rows, draws = (
        row.expand(4000, -1),
        torch.rand(4000, generator=torch.Generator().manual_seed(2), dtype=torch.float64),
    )
    tokens = sampling.draw(rows, draws)
    assert kept[tokens].isfinite().all()
    likeliest = int(row.argmax())
    expected = torch.softmax(kept, 0)[likeliest].item()
    share = (tokens == likeliest).double().mean().item()
    assert abs(share - expected) < 4 * (expected * (1 - expected) / 4000) ** 0.5 + 1e-9


def test_random_bytes_in_a_string_are_followed_as_python_decodes_them() -> None:
    chooser = random.Random(0)
    alphabet = [0x41, 0x22, 0x5C, 0x6E, 0x0A, 0xC3, 0xA9, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x98, 0x80, 0xED, 0xA0, 0xC2]
    state_of = json_string_bytes.STEP
    for _ in range(20000):
        data = bytes(chooser.choice(alphabet) for _ in range(chooser.randint(1, 5)))
        state, characters = json_string_bytes.PLAIN, 0
        for byte in data:
            characters += int(json_string_bytes.DONE[state, byte])
            state = int(state_of[state, byte])
        try:
            value = json.loads('"' + data.decode() + '"')
            valid = not re.search("[\x80-\x9f]", value)
        except ValueError:
            valid = False
        assert (state == json_string_bytes.PLAIN) == valid, data
        if valid:
            assert characters == len(value)
