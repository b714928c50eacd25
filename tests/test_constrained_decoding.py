"""Constrained decoding: whatever the logits are, the text is JSON of the schema, and ends in time."""

import json
import random
import re
import threading
from itertools import product
from string import ascii_letters
from typing import Any

import jsonschema
import pytest
import torch
from constrained_texts import (
    EVERYTHING,
    PLAIN,
    TOKENIZER,
    WITH_PATTERNS,
    byte_level,
    random_value,
    record,
    text,
    write,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from clinsynth.data.tasks import load_task, task_names
from clinsynth.pipelines.structured_medical_text import GeneratedSamples, Icd10Report, SchemaConstraint

TASKS = [load_task(name).schema for name in task_names()]


@pytest.mark.parametrize("budget", [None, "least", 7, 40])
@pytest.mark.parametrize("schema", [EVERYTHING, GeneratedSamples.model_json_schema(), Icd10Report.model_json_schema()])
def test_every_text_is_valid_and_complete_within_its_budget(schema: dict[str, Any], budget: int | str | None) -> None:
    constraint = SchemaConstraint(TOKENIZER, schema)
    budget = constraint.least_tokens + (0 if budget == "least" else budget) if budget else None
    for row in write(constraint, budget=budget):
        written, finished = constraint.decode(row)
        assert finished
        data = json.loads(written)
        jsonschema.validate(data, schema)
        assert list(data) == list(schema["properties"])
        written.encode()  # no half surrogate


@pytest.mark.parametrize(
    ("schema", "rows"),
    [
        (EVERYTHING, 100),
        (WITH_PATTERNS, 300),
        (PLAIN, 160),
        (GeneratedSamples.model_json_schema(), 100),
        *((schema, 85) for schema in TASKS),
    ],
)
def test_a_thousand_texts_from_random_logits_are_valid(schema: dict[str, Any], rows: int) -> None:
    constraint = SchemaConstraint(TOKENIZER, schema)
    for row in write(constraint, rows=rows):
        written, finished = constraint.decode(row)
        assert finished and len(row) <= constraint.max_tokens
        jsonschema.validate(json.loads(written), schema)
        written.encode()


@pytest.mark.parametrize("seed", range(40))
def test_texts_of_random_schemas_are_valid_in_any_budget(seed: int) -> None:
    chooser = random.Random(seed)
    schema = record(**{f"p{number}": random_value(chooser) for number in range(chooser.randint(1, 3))})
    constraint = SchemaConstraint(TOKENIZER, schema)
    for budget in (None, constraint.least_tokens, constraint.least_tokens + chooser.randint(1, 60)):
        for row in write(constraint, rows=2, seed=seed, budget=budget):
            written, finished = constraint.decode(row)
            assert finished
            jsonschema.validate(json.loads(written), schema)


@pytest.mark.parametrize("schema", [EVERYTHING, *TASKS])
def test_texts_of_four_tokens_a_character_end_within_the_budget(schema: dict[str, Any]) -> None:
    constraint = SchemaConstraint(TOKENIZER, schema)
    first_bytes = [token[:1] >= b"\xf0" for token in constraint.vocabulary.tokens]
    for row in write(constraint, rows=2, favour=torch.tensor(first_bytes) * 99.0):
        written, finished = constraint.decode(row)
        assert finished
        jsonschema.validate(json.loads(written), schema)
        assert len(re.findall("[\U00010000-\U0010ffff]", written)) > 20


def test_a_vocabulary_of_150_thousand_tokens() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["".join(letters) for letters in product(ascii_letters + "Ġ", repeat=3)]
    constraint = SchemaConstraint(byte_level([*alphabet, *words, *(word + "ing" for word in words[:3000])]), PLAIN)
    assert len(constraint.vocabulary.tokens) > 150_000
    for row in write(constraint, rows=8):
        written, finished = constraint.decode(row)
        assert finished
        jsonschema.validate(json.loads(written), PLAIN)


def test_a_vocabulary_that_lacks_bytes_never_comes_to_a_dead_end() -> None:
    ascii_tokens = [chr(code) for code in range(0x21, 0x7F)] + ["Ġ", "\\n", "Ġrain"]
    cut = ["ðŁ", "Ã", "Ã©"]  # the first two bytes of an emoji, the first of é, and é
    constraint = SchemaConstraint(byte_level(ascii_tokens + cut), record(a=text(5, 40), b={"enum": ["é", "e"]}))
    favour = torch.tensor([token in (b"\xf0\x9f", b"\xc3", b"\xc3\xa9") for token in constraint.vocabulary.tokens])
    for row in write(constraint, favour=favour * 9.0):
        written, finished = constraint.decode(row)
        assert finished and "éé" in written
        json.loads(written)
    with pytest.raises(ValueError, match=r"cannot write .*è.*; use a model whose vocabulary holds all single bytes"):
        SchemaConstraint(byte_level(ascii_tokens), record(a={"enum": ["è"]}))


def test_layout_is_the_one_of_json_dumps() -> None:
    constraint = SchemaConstraint(TOKENIZER, record(a=text(), b={"type": "array", "items": text()}))
    for seed in range(10):
        for row in write(constraint, seed=seed):
            written, _ = constraint.decode(row)
            assert written == json.dumps(json.loads(written), ensure_ascii=False)


COMPLETIONS = [
    mid + b"x" * k + b'"}' for k in range(4) for mid in (b"", b"n", b"\xa0", b"\xa9", b"\x80\x80", b"\xbf\xbf")
]
COMPLETIONS += [mid + b'"}' for mid in (b"\x80\x80\x80", b"\x90\x80\x80", b"\xa0\x80", b"\x9f\xbf", b"\x8f\xbf\xbf")]
COMPLETIONS += [mid + b'x"}' for mid in (b"\x80\x80\x80", b"\x90\x80\x80", b"\xa0\x80", b"\x9f\xbf")] + [b"", b"}"]


def can_be_completed(written: bytes, validator: Any) -> bool:
    for rest in COMPLETIONS:
        try:
            whole = (written + rest).decode()
            valid = validator.is_valid(json.loads(whole))
        except ValueError:
            continue
        if not valid:
            continue
        inside = whole[len('{"a": "') : -2]
        canonical = re.fullmatch(r'\{"a": ".*"\}', whole, re.S) and not re.search("[\x7f-\x9f]", inside)
        if canonical and not re.search(r"\\[^\"\\nt]", re.sub(r"\\\\", "", inside)):
            return True
    return False


def test_masks_allow_what_can_be_completed_and_nothing_else() -> None:
    schema = record(a=text(2, 3))
    constraint = SchemaConstraint(TOKENIZER, schema)
    compared, validator = 0, jsonschema.Draft202012Validator(schema)
    for seed in range(6):
        (row,) = write(constraint, rows=1, seed=seed)
        processor = constraint.processor(1, 1)
        for at in range(len(row) - 1):
            written = b"".join(constraint.vocabulary.tokens[token] for token in row[:at])
            ids = torch.tensor([[0, *row[:at]]])
            allowed = processor(ids, torch.zeros(1, len(TOKENIZER))).isfinite()[0].tolist()
            if processor.forced[0] >= 0:
                continue
            for token, data in enumerate(constraint.vocabulary.tokens):
                if data:
                    compared += 1
                    assert allowed[token] == can_be_completed(written + data, validator), (written, data)
    assert compared > 2000


def test_stretches_without_choice_are_forced_and_cut_as_the_tokenizer_cuts_them() -> None:
    constraint = SchemaConstraint(TOKENIZER, record(presenting_complaint=text(3, 9)))
    head = TOKENIZER.encode('{"presenting_complaint": "')
    processor = constraint.processor(1, 1)
    ids = torch.zeros(1, 1, dtype=torch.long)
    for token in head:
        scores = processor(ids, torch.zeros(1, len(TOKENIZER)))
        assert processor.forced == [token]
        assert scores.isfinite().nonzero().tolist() == [[0, token]]
        ids = torch.cat([ids, torch.tensor([[token]])], 1)
    processor(ids, torch.zeros(1, len(TOKENIZER)))
    assert processor.forced == [-1]


def test_prompts_are_not_read_and_rows_are_freed_at_their_end() -> None:
    constraint = SchemaConstraint(TOKENIZER, record(a=text(2, 9)))
    other = torch.full((4, 900), TOKENIZER.encode('"')[0])
    assert write(constraint) == write(constraint, prompt=other)
    processor = constraint.processor(1, 1)
    (row,) = write(constraint, rows=1)
    processor(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, len(TOKENIZER)))
    for token in row:
        processor.take([token])
    assert processor.rows == [None]
    processor(torch.tensor([[0, row[-1]]]), torch.zeros(1, len(TOKENIZER)))
    assert processor.forced == [constraint.end_token]


def test_a_second_constraint_on_the_tokenizer_shares_its_vocabulary() -> None:
    first, second = (SchemaConstraint(TOKENIZER, record(**{name: text(5, 60)})) for name in ("a", "bcd"))
    assert second.vocabulary is first.vocabulary


def test_threads_may_share_a_constraint() -> None:
    schema = EVERYTHING
    alone = [write(SchemaConstraint(TOKENIZER, schema), rows=2, seed=seed) for seed in range(4)]
    shared, results = SchemaConstraint(TOKENIZER, schema), {}
    threads = [
        threading.Thread(target=lambda seed=seed: results.update({seed: write(shared, rows=2, seed=seed)}))
        for seed in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[seed] for seed in range(4)] == alone


def test_a_token_that_was_not_allowed_is_an_error() -> None:
    processor = SchemaConstraint(TOKENIZER, record(a=text())).processor(1, 1)
    processor(torch.tensor([[0]]), torch.zeros(1, len(TOKENIZER)))
    with pytest.raises(ValueError, match="no processor may change logits"):
        processor(torch.tensor([[0, TOKENIZER.encode("x")[0]]]), torch.zeros(1, len(TOKENIZER)))


def test_sentencepiece_tokens_are_read_as_bytes() -> None:
    names = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", '▁"', "▁low", "mood", 'é"', '"', "{"]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")
    constraint = SchemaConstraint(fast, EVERYTHING)
    data = constraint.vocabulary.tokens
    assert data[:2] == [b"", b""] and data[names.index("<0xC3>")] == b"\xc3" and data[names.index("▁low")] == b" low"
    for row in write(constraint):
        written, finished = constraint.decode(row)
        assert finished
        jsonschema.validate(json.loads(written), EVERYTHING)
