"""What constrained decoding is made of: bounded schemas, ways to an end, masks, the check of a text, and drawing."""

import json
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from constrained_texts import EVERYTHING, TOKENIZER, WITH_PATTERNS, byte_level, record, text, write
from text_models import tiny_tokenizer
from transformers import TopPLogitsWarper

from clinsynth.pipelines.structured_medical_text import GeneratedSamples, SchemaConstraint
from clinsynth.pipelines.structured_medical_text.schema_logits import SLACK, block, block_all, unfinished
from clinsynth.pipelines.structured_medical_text.schema_text import ending, size
from clinsynth.pipelines.structured_medical_text.schemas import bounded, check_text, most_tokens, rise
from clinsynth.pipelines.structured_medical_text.text_rows import SeededSampling


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (record(a={"type": "string"}), r"\$\.a is a string without maxLength"),
        (record(a=text(5, 3)), r"\$\.a cannot be met: minLength is 5 and maxLength 3"),
        (record(a={"$ref": "#"}), r"holds itself \(#\) without bound"),
        ({"$defs": {"n": record(a={"$ref": "#/$defs/n"})}, **record(b={"$ref": "#/$defs/n"})}, "holds itself"),
        (record(a={"$ref": "#/$defs/x"}), "refers to #/[$]defs/x, which it does not hold"),
        (record(a={"type": "string", "pattern": "a+"}), "has no longest match"),
        (record(a={"type": "string", "pattern": "(?=a)[ab]{1,2}"}), r"\$\.a: pattern .* cannot be used"),
        (record(a={"type": "string", "pattern": "(a)\\1"}), r"\$\.a: pattern .* cannot be used"),
        (record(a={"type": "string", "pattern": "[[:alpha:]]"}), r"cannot be used \(Possible nested set"),
        (record(a={"type": "string", "pattern": "\\D{2}"}), r"\$\.a: pattern .* has \\D or \\W"),
        (record(a={"type": "string", "pattern": "a^b"}), r"\$\.a: pattern .* cannot be used"),
        (record(a={"type": "string", "pattern": "[^\\s\\S]"}), r"\$\.a cannot be met: no text fits the pattern"),
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


@pytest.mark.parametrize("schema", [EVERYTHING, WITH_PATTERNS, GeneratedSamples.model_json_schema()])
def test_every_beginning_of_a_text_has_a_shortest_end_and_no_later_place_is_much_further_off(
    schema: dict[str, Any],
) -> None:
    form, constraint = bounded(schema), SchemaConstraint(TOKENIZER, schema)
    most, further = most_tokens(form, shortest=True), rise(form) + SLACK
    for row in write(constraint, rows=2):
        written, _ = constraint.decode(row)
        nearest = most
        for at in range(len(written) + 1):
            rest = ending(form, written[:at])
            whole = written[:at] + "".join("x" * part if isinstance(part, int) else part for part in rest)
            jsonschema.validate(json.loads(whole), schema)
            assert size(rest) <= min(most + SLACK, nearest + further)
            nearest = min(nearest, size(rest))
        assert not rest


def test_a_text_that_is_none_of_the_schema_has_no_end() -> None:
    form = bounded(record(a=text(), b={"enum": ["x"]}, c={"type": "string", "pattern": "a{2}"}))
    for written in ('{"b', '{"a": 3', '{"a": "", "b": "y', '{"a": "", "b": "x", "c": "b', '{"a": "\\uZ'):
        with pytest.raises(ValueError):
            ending(form, written)


def test_what_another_back_end_writes_is_read_too() -> None:
    form = bounded(record(a=text(3, 9), n={"type": "number"}))
    assert ending(form, ' {"a" : "x\\u00') == ["00", 1, '", "n": 0}']
    assert ending(form, '{"a":"xyz","n":1e') == ["0}"]
    assert ending(form, '{"a":"  x', counts_blanks=False)[0] == 2


def test_a_character_is_known_to_lack_bytes() -> None:
    for letter in "aé€😀":
        data = letter.encode()
        for begun in range(1, len(data)):
            assert unfinished(bytearray(b"x" + data[:begun])) == (begun, len(data) - begun)
        assert unfinished(bytearray(data)) == (0, 0)


def test_masks_block_alike_on_the_cpu_and_on_a_device() -> None:
    chooser = np.random.default_rng(0)
    bits = chooser.integers(-(2**31), 2**31, (4, 5), dtype=np.int32)
    bits[1], bits[2], bits[2, 3] = -1, 0, 64
    scores = torch.randn(4, 150)
    one, other = scores.clone(), scores.clone()
    block(one, bits)
    block_all(other, torch.from_numpy(bits))
    assert torch.equal(one, other)
    allowed = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")[:, :150].astype(bool)
    assert torch.equal(one.isfinite(), torch.from_numpy(allowed)) and torch.equal(
        one[one.isfinite()], scores[one.isfinite()]
    )


def test_tokenizers_that_cannot_serve_are_refused() -> None:
    blind = tiny_tokenizer()
    blind.eos_token = None
    with pytest.raises(ValueError, match="no end token"):
        SchemaConstraint(blind, record(a=text()))
    with pytest.raises(ValueError, match="double quote"):
        SchemaConstraint(byte_level(["a", "b"]), record(a=text()))
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
