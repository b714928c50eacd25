"""Constrained decoding: whatever the logits are, the text is JSON of the schema, and ends in time."""

import json
import re
import threading
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from constrained_texts import EVERYTHING, TOKENIZER, record, text, write
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from clinsynth.pipelines.structured_medical_text import GeneratedSamples, Icd10Report, SchemaConstraint, token_tables


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


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


def test_layout_is_the_one_of_json_dumps() -> None:
    constraint = SchemaConstraint(TOKENIZER, record(a=text(), b={"type": "array", "items": text()}))
    plain = 0
    for seed in range(10):
        for row in write(constraint, seed=seed):
            written, _ = constraint.decode(row)
            if "\\/" not in written:
                plain += 1
                assert written == json.dumps(json.loads(written), ensure_ascii=False)
    assert plain > 10


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
        if canonical and not re.search(r"\\[^\"\\/nt]", re.sub(r"\\\\", "", inside)):
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
            written = b"".join(constraint.tables.tokens[token] for token in row[:at])
            ids = torch.tensor([[0, *row[:at]]])
            allowed = processor(ids, torch.zeros(1, len(TOKENIZER))).isfinite()[0].tolist()
            if processor.forced[0] >= 0:
                continue
            for token, data in enumerate(constraint.tables.tokens):
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


def test_nothing_grows_once_the_schema_is_known() -> None:
    constraint = SchemaConstraint(
        TOKENIZER, record(a=text(5, 60), b={"type": "array", "items": text(0, 9), "maxItems": 3})
    )
    sizes = []
    for seed in range(60):
        write(constraint, rows=8, seed=seed)
        sizes.append((len(constraint.graph.nodes), constraint.pool.used))
    assert sizes[-1][0] == sizes[30][0]
    assert sizes[-1][1] - sizes[-15][1] < 10  # states between bytes that hardly ever meet a text's very end


def test_a_second_constraint_on_the_tokenizer_shares_its_tables_and_masks() -> None:
    first = SchemaConstraint(TOKENIZER, record(a=text(5, 60)))
    write(first, rows=8)
    second = SchemaConstraint(TOKENIZER, record(bcd=text(5, 60)))
    before = first.pool.used
    write(second, rows=8)
    assert second.tables is first.tables and second.pool is first.pool and first.pool.used <= before + 2


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
    data = token_tables.token_bytes(fast)
    assert data[:2] == [b"", b""] and data[names.index("<0xC3>")] == b"\xc3" and data[names.index("▁low")] == b" low"
    constraint = SchemaConstraint(fast, EVERYTHING)
    for row in write(constraint):
        written, finished = constraint.decode(row)
        assert finished
        jsonschema.validate(json.loads(written), EVERYTHING)
