"""Constrained decoding: whatever the logits are, the text is JSON of the schema, and ends in time."""

import json
import random
import re
import threading

import jsonschema
import numpy as np
import pytest
import torch
from text_models import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast, TopPLogitsWarper

from clinsynth.pipelines.structured_medical_text import (
    GeneratedSamples,
    Icd10Report,
    SchemaConstraint,
    json_string_bytes,
    token_tables,
)
from clinsynth.pipelines.structured_medical_text.schema_bounds import bounded
from clinsynth.pipelines.structured_medical_text.schemas import check_text
from clinsynth.pipelines.structured_medical_text.seeded_sampling import SeededSampling

TOKENIZER = tiny_tokenizer()


def text(least=0, most=12):
    return {"type": "string", "minLength": least, "maxLength": most}


def record(**properties):
    return {"type": "object", "properties": properties}


EVERYTHING = record(
    label={"enum": ['mi"ld\\', "se\nvere", "café 😀", "קל", "group A", "group A+", ""]},
    score={"type": "integer", "minimum": 0, "maximum": 27},
    size={"type": "number"},
    whole={"type": "integer"},
    **{'ke"y': {"type": "boolean"}},
    code={"type": "string", "pattern": "^[A-Z][0-9]{2}( b|\\.[0-9])?$"},
    notes={"type": "array", "items": text(1, 5), "maxItems": 3},
    people={"type": "array", "items": record(name=text(2, 4), age={"type": "integer"}), "minItems": 1, "maxItems": 2},
    grid={"type": "array", "items": {"type": "array", "items": {"enum": [1, 12, 3]}, "maxItems": 2}, "maxItems": 2},
    maybe={"anyOf": [text(), {"type": "null"}, record(z={"type": "integer"})]},
    free=text(30, 80),
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def write(constraint, rows=4, seed=0, budget=None, spread=3.0, prompt=None):
    """Generated tokens, a list a row, from random logits."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(rows, 7, dtype=torch.long) if prompt is None else prompt
    length = ids.shape[1]
    processor = constraint.processor(length, rows, budget)
    for _ in range(budget or constraint.max_tokens):
        logits = torch.randn(rows, len(constraint.tokenizer) + 5, generator=generator) * spread
        scores = processor(ids, logits)
        assert scores.isfinite().any(1).all()
        ids = torch.cat([ids, scores.argmax(1, keepdim=True)], 1)
        if (ids[:, length:] == constraint.end_token).any(1).all():
            break
    return ids[:, length:].tolist()


@pytest.mark.parametrize("budget", [None, "least", 7, 40])
@pytest.mark.parametrize("schema", [EVERYTHING, GeneratedSamples.model_json_schema(), Icd10Report.model_json_schema()])
def test_every_text_is_valid_and_complete_within_its_budget(schema, budget):
    constraint = SchemaConstraint(TOKENIZER, schema)
    budget = constraint.least_tokens + (0 if budget == "least" else budget) if budget else None
    for row in write(constraint, budget=budget):
        written, finished = constraint.decode(row)
        assert finished
        data = json.loads(written)
        jsonschema.validate(data, schema)
        assert list(data) == list(schema["properties"])
        written.encode()  # no half surrogate


def test_layout_is_the_one_of_json_dumps():
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


def can_be_completed(written, validator):
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


def test_masks_allow_what_can_be_completed_and_nothing_else():
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


def test_stretches_without_choice_are_forced_and_cut_as_the_tokenizer_cuts_them():
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


def test_prompts_are_not_read_and_rows_are_freed_at_their_end():
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


def test_nothing_grows_once_the_schema_is_known():
    constraint = SchemaConstraint(
        TOKENIZER, record(a=text(5, 60), b={"type": "array", "items": text(0, 9), "maxItems": 3})
    )
    sizes = []
    for seed in range(60):
        write(constraint, rows=8, seed=seed)
        sizes.append((len(constraint.graph.nodes), constraint.pool.used))
    assert sizes[-1][0] == sizes[30][0]
    assert sizes[-1][1] - sizes[-15][1] < 10  # states between bytes that hardly ever meet a text's very end


def test_a_second_constraint_on_the_tokenizer_shares_its_tables_and_masks():
    first = SchemaConstraint(TOKENIZER, record(a=text(5, 60)))
    write(first, rows=8)
    second = SchemaConstraint(TOKENIZER, record(bcd=text(5, 60)))
    before = first.pool.used
    write(second, rows=8)
    assert second.tables is first.tables and second.pool is first.pool and first.pool.used <= before + 2


def test_threads_may_share_a_constraint():
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


def test_a_token_that_was_not_allowed_is_an_error():
    processor = SchemaConstraint(TOKENIZER, record(a=text())).processor(1, 1)
    processor(torch.tensor([[0]]), torch.zeros(1, len(TOKENIZER)))
    with pytest.raises(ValueError, match="no processor may change logits"):
        processor(torch.tensor([[0, TOKENIZER.encode("x")[0]]]), torch.zeros(1, len(TOKENIZER)))


def test_tables_are_kept_on_disk_and_mended(tmp_path, monkeypatch, caplog):
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


def test_sentencepiece_tokens_are_read_as_bytes():
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


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (record(a={"type": "string"}), r"\$\.a is a string without maxLength"),
        (record(a=text(5, 3)), r"\$\.a cannot be met: minLength is 5 and maxLength 3"),
        (record(a={"$ref": "#"}), r"holds itself \(#\) without bound"),
        ({"$defs": {"n": record(a={"$ref": "#/$defs/n"})}, **record(b={"$ref": "#/$defs/n"})}, "holds itself"),
        (record(a={"$ref": "#/$defs/x"}), "refers to #/[$]defs/x, which it does not hold"),
        (record(a={"type": "string", "pattern": "a+"}), "has no longest match"),
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
def test_schemas_that_cannot_be_generated_are_refused_by_place(schema, message):
    with pytest.raises(ValueError, match=message):
        SchemaConstraint(TOKENIZER, schema)


def test_references_alternatives_and_order_are_filled_in():
    schema = {**record(b={"$ref": "#/$defs/T"}, a={"type": ["null", "boolean"]}), "$defs": {"T": text(1, 2)}}
    form = bounded({**schema, "required": ["a"]})
    assert form["required"] == ["b", "a"] and form["properties"]["b"] == text(1, 2)
    assert form["properties"]["a"] == {"anyOf": [{"type": "null"}, {"type": "boolean"}]}


def test_tokenizers_that_cannot_serve_are_refused():
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
    ],
)
def test_a_refusal_names_its_reason_and_nothing_of_the_text(written, reason):
    assert check_text(written, {**record(a=text(0, 5)), "required": ["a"]}) == (None, reason)


def test_pydantic_refuses_with_a_reason_too():
    data, reason = check_text('{"samples": ["too short"]}', GeneratedSamples)
    assert data is None and reason == "string_too_short at $.samples.0"


def draw(scores, seeds, **settings):
    arguments = {"temperature": 1.0, "top_p": 1.0, "prompt_length": 3, "max_tokens": 4, **settings}
    return SeededSampling(seeds, **arguments)(torch.zeros(len(scores), 3), scores.clone()).argmax(1)


def test_a_row_draws_the_same_whatever_rows_are_beside_it():
    scores = torch.randn(6, 5000, generator=torch.Generator().manual_seed(0))
    seeds = [11, 12, 13, 14, 15, 16]
    together = draw(scores, seeds, top_p=0.9)
    alone = [draw(scores[i : i + 1], seeds[i : i + 1], top_p=0.9).item() for i in range(6)]
    assert together.tolist() == alone
    assert draw(scores, seeds, temperature=0).tolist() == scores.argmax(1).tolist()


@pytest.mark.parametrize("spread", [0.1, 4.0])  # the nucleus is wider, and narrower, than what is looked at first
def test_the_nucleus_is_the_one_of_transformers_and_shares_are_those_of_the_softmax(spread):
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


def test_random_bytes_in_a_string_are_followed_as_python_decodes_them():
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
