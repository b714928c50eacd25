"""Reasoning models: thoughts before each text, up to a mark or a budget, counted and not kept."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_server import ChatServer, chat, is_canary
from test_generate_text import arguments, read_rows
from test_generate_text_filter import remote
from text_models import CHAT_TEMPLATE, save_tiny_model

from clinsynth.models.language_models import load_causal_model
from clinsynth.pipelines.structured_medical_text import RowRequest, StructuredMedicalTextPipeline
from clinsynth.pipelines.structured_medical_text.prompts import encode_messages, opened
from clinsynth.pipelines.structured_medical_text.text_rows import EndOfThought, thought_of
from clinsynth.scripts.generate_text import main as generate

SCHEMA = {"type": "object", "properties": {"text": {"type": "string", "minLength": 4, "maxLength": 12}}}
OPENS = CHAT_TEMPLATE + "{% if add_generation_prompt %}<think>\n{% endif %}"
"""A template that opens thoughts by itself, as DeepSeek-R1's does."""
MESSAGES = [{"role": "user", "content": "rain"}]


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> StructuredMedicalTextPipeline:
    model, tokenizer = load_causal_model(str(save_tiny_model(tmp_path_factory.mktemp("thinker"))))
    tokenizer.chat_template = OPENS
    return StructuredMedicalTextPipeline(model=model, tokenizer=tokenizer, schema=SCHEMA)


def test_prompts_open_thoughts_or_close_those_that_a_template_opens(thinker: StructuredMedicalTextPipeline) -> None:
    tokenizer = thinker.tokenizer
    ends = [tokenizer.decode(encode_messages(tokenizer, MESSAGES, thinking)) for thinking in (True, False)]
    assert ends[0].endswith("assistant\n<think>\n") and ends[1].endswith("assistant\n<think>\n</think>\n\n")
    assert opened("ask: ", True) == "ask: <think>\n" and opened("ask: ", False) == "ask: "


def test_thoughts_end_at_their_mark() -> None:
    assert thought_of([5, 6, 1, 2, 7], [1, 2], 9) == [5, 6] and thought_of([5, 9, 9], [1, 2], 9) == [5]
    assert thought_of([5, 1, 6], [1, 2], 9) == [5, 1, 6]
    stop, scores = EndOfThought([1, 2], prompt_length=1), torch.zeros(2, 4)
    assert stop(torch.tensor([[2, 1], [1, 2]]), scores).tolist() == [False, False]
    assert stop(torch.tensor([[2, 1, 2], [1, 2, 3]]), scores).tolist() == [True, False]


def test_a_model_thinks_within_its_budget_before_a_valid_text(thinker: StructuredMedicalTextPipeline) -> None:
    rows = [RowRequest(MESSAGES, seed) for seed in (1, 2, 3)]
    calm = list(thinker.generate_rows(rows))
    results, single = (list(thinker.generate_rows(rows, batch_size=size, thinking=9)) for size in (3, 1))
    assert results == single and all(4 <= len(result.data["text"]) <= 12 for result in results if result.data)
    assert all(0 < result.thought_tokens <= 9 * result.attempts for result in results)
    assert [result.data for result in results] != [result.data for result in calm]
    assert not any(result.thought_tokens for result in calm)
    thoughts = thinker.think(rows, [1, 2, 3], 1.0, 0.95, 9)
    assert sum(map(len, thoughts)) == sum(result.thought_tokens for result in results if result.attempts == 1)
    with pytest.raises(ValueError, match="more than the model's context"):
        list(thinker.generate_rows(rows, thinking=9000))


def test_a_servers_thoughts_are_counted_and_left_out(tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> Any:
        if is_canary(body):
            return chat(json.dumps({"answer": "quartz-7261"}))
        status, headers, content = chat(f'<think>so or so</think>\n{{"text": "rain walks {body["seed"] % 10**8}"}}')
        usage = {"completion_tokens_details": {"reasoning_tokens": 4}}
        return status, headers, json.dumps(json.loads(content) | {"usage": usage}).encode()

    with ChatServer(answer).serve() as server:
        generate(remote(server, tmp_path, thinking=50, near_duplicate=0.0))
        first, *others = server.bodies
    rows = read_rows(tmp_path / "out")
    assert len(rows) == 4 and all(row["thought_tokens"] == 4 for row in rows) and "think" not in rows[0]["text"]
    assert "chat_template_kwargs" not in first and all(
        body["chat_template_kwargs"] == {"enable_thinking": True} and body["max_tokens"] > 50 for body in others
    )


def test_vllm_here_does_not_think(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--thinking 5 is for --backend transformers"):
        arguments(tmp_path, thinking=5, backend="vllm")
