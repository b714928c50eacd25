"""Causal language models here: their one loader, the writers of texts around them, and the scorer of a text's loss."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from clinsynth.models.text_encoders import TextModel, token_counter, unpack_texts
from clinsynth.models.weights import best_device, computes_in_bfloat16, explained_where_unloadable, hash_weights
from clinsynth.models.writers import attempt_seed, check_answer, closed_schema, token_budget
from clinsynth.progress import time_in_words

if TYPE_CHECKING:
    from clinsynth.models.writers import Request, Writer, WriterArguments
    from clinsynth.pipelines.structured_medical_text import RowRequest, RowResult, StructuredMedicalTextPipeline
    from clinsynth.pipelines.structured_medical_text.prompts import Task
    from clinsynth.pipelines.structured_medical_text.text_rows import Outcome


logger = logging.getLogger("clinsynth")


def load_causal_model(
    name: str, dtype: str = "auto", flag: str = "--model"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model, for evaluation, and its tokenizer.

    Args:
        name: folder, Hub id or .gguf file, the value of `flag`.
        dtype: name of the torch type of its weights; auto: as they are saved.

    Raises:
        ValueError: they cannot be had; names the cause.
    """
    path = Path(name)
    gguf = path.suffix == ".gguf"
    source, options = (str(path.parent), {"gguf_file": path.name}) if gguf else (name, {})
    weights = {} if gguf else {"use_safetensors": True}
    hint = "give a folder, a .gguf file, or a Hub id where the Hub can be reached (see HF_HUB_OFFLINE)"
    with explained_where_unloadable(flag, name, hint, "a causal language model"):
        tokenizer: Any = AutoTokenizer.from_pretrained(source, **options)
        model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **options, **weights)
    if gguf:  # read weights are plain numbers; what says otherwise bars training and saving
        del model.config.quantization_config
        model.hf_quantizer, model.is_quantized = None, False
    return model.eval(), tokenizer


def load_writer(args: WriterArguments, task: Task, device: str | torch.device) -> Writer:
    """The writer that the flags name, held to the task's schema.

    Raises:
        ValueError, ImportError: the model or the server cannot be had; names the cause.
    """
    if args.endpoint:
        from clinsynth.models.endpoints import open_endpoint

        return open_endpoint(args, task.schema)
    if args.backend == "vllm":
        return VLLMWriter(args, task)
    if args.backend == "llama.cpp":
        from clinsynth.models.llama_cpp import LlamaCppWriter

        return LlamaCppWriter(args, task)
    return LocalWriter(args, load_text_pipeline(args, task, device))


def load_text_pipeline(args: WriterArguments, task: Task, device: str | torch.device) -> StructuredMedicalTextPipeline:
    """The pipeline around the model and the tokenizer of --model.

    Raises:
        ValueError: they cannot be had; names the cause.
    """
    from clinsynth.pipelines.structured_medical_text import StructuredMedicalTextPipeline

    model, tokenizer = load_causal_model(args.model, args.dtype)
    return StructuredMedicalTextPipeline(
        model=model,
        tokenizer=tokenizer,
        task=task.to_dict(),
        schema=task.schema,
        device=device,
        backend=args.decoding,
    )


class LocalWriter:
    """A writer by a pipeline in this process."""

    def __init__(self, args: WriterArguments, pipeline: StructuredMedicalTextPipeline):
        self.args, self.pipeline = args, pipeline

    @property
    def facts(self) -> dict[str, Any]:
        """What identifies the model."""
        model: Any = self.pipeline.model
        facts = {"weights_sha256": hash_weights(model), "network": type(model).__name__}
        return {**facts, "decoding": self.args.decoding, "dtype": self.args.dtype}

    def write(self, requests: list[Request]) -> Iterator[RowResult]:
        """A result a request."""
        from clinsynth.pipelines.structured_medical_text import RowRequest

        rows = [RowRequest(messages=messages, seed=seed) for messages, seed in requests]
        started = time.monotonic()
        with token_bar() as bar:
            tokens = TokenCount(bar)
            yield from self.pipeline.generate_rows(
                rows,
                batch_size=self.args.batch_size,
                temperature=self.args.temperature,
                top_p=self.args.top_p,
                max_attempts=self.args.max_attempts,
                max_new_tokens=self.args.max_new_tokens,
                streamer=tokens,
                thinking=self.args.thinking,
            )
        if len(rows) >= self.args.batch_size:  # few rows that are drawn anew say little
            seconds = time.monotonic() - started
            speed = f"{tokens.drawn / seconds:.1f} tokens a second"
            slow = self.args.dtype == "float32" and computes_in_bfloat16()
            hint = "; --dtype bfloat16 --batch_size 16 is several times as quick here" if slow else ""
            logger.info(f"{len(rows)} texts, {tokens.drawn} tokens in {time_in_words(seconds)}: {speed}{hint}")


def token_bar() -> Any:
    """A second bar, of tokens, on a terminal: a batch of long texts takes minutes."""
    return tqdm(desc="tokens", unit="token", leave=False, disable=None if PartialState().is_main_process else True)


class TokenCount:
    """A streamer, as transformers' `generate` takes it, that counts the tokens drawn on a bar."""

    def __init__(self, bar: Any):
        self.bar, self.is_prompt, self.drawn = bar, True, 0

    def put(self, tokens: Any) -> None:
        """Take a batch's prompts, or the tokens that follow, one a row."""
        if not self.is_prompt:
            self.bar.update(len(tokens))
            self.drawn += len(tokens)
        self.is_prompt = False

    def end(self) -> None:
        """The next tokens are prompts."""
        self.is_prompt = True


class VLLMWriter:
    """A writer by vLLM's engine in this process.

    Raises:
        ImportError: vLLM is not installed; says how to.
        ValueError: the task's schema is not valid.
    """

    def __init__(self, args: WriterArguments, task: Task):
        try:
            from vllm import LLM
        except ImportError as error:
            raise ImportError(
                f"--backend vllm needs vLLM 0.12 or later ({error}); pip install clinsynth[vllm]"
            ) from error
        self.args = args
        self.schema, self.budget = closed_schema(task.schema), token_budget(task.schema, args.max_new_tokens)
        self.engine = LLM(model=args.model, dtype=args.dtype)

    @property
    def facts(self) -> dict[str, Any]:
        """What identifies the model."""
        return {"weights_sha256": None, "network": "vLLM", "dtype": self.args.dtype}

    def write(self, requests: list[Request]) -> Iterator[RowResult]:
        """A result a request."""
        from clinsynth.pipelines.structured_medical_text.text_rows import RowRequest, attempt_rows

        rows = [RowRequest(messages, seed) for messages, seed in requests]
        return attempt_rows(rows, self.attempt, len(rows), self.args.max_attempts)

    def attempt(self, rows: list[RowRequest], failed: list[int]) -> list[Outcome]:
        """One attempt at each row, of which so many have failed."""
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        settings = [
            SamplingParams(
                seed=attempt_seed(row.seed, count),
                max_tokens=self.budget,
                temperature=self.args.temperature,
                top_p=self.args.top_p,
                structured_outputs=StructuredOutputsParams(json=self.schema),
            )
            for row, count in zip(rows, failed, strict=True)
        ]
        chats = [row.messages for row in rows]
        answers = [output.outputs[0] for output in self.engine.chat(chats, settings, use_tqdm=False)]
        return [check_answer(answer.text, answer.finish_reason, self.schema) for answer in answers]


BATCH_TEXTS = 4  # a row of logits has as many numbers as the vocabulary, for each token
MOST_TOKENS = 256


def load_scorer(name: str) -> TextModel:
    """A causal language model by folder, Hub id or .gguf file as a judge of texts; its one feature is a text's loss.

    Raises:
        ValueError: it is not there, is no such model, or its tokenizer has no token to begin a text with.
    """
    model, tokenizer = load_causal_model(name, flag="--language_model")
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise ValueError(f"--language_model {name}: its tokenizer has no token to begin a text with; take another")
    path = Path(name)
    network: Any = model
    return build_scorer(path.name if path.exists() else name, network.to(best_device()), tokenizer, start)


def build_scorer(name: str, model: Any, tokenizer: Any, start: int) -> TextModel:
    """The judge around a network and its tokenizer; each text is put behind the token `start`.

    A text's first token counts only where it is the only one: what may begin a text is a matter of the model's chat
    format, and would weigh more in short texts.
    """

    def losses(texts: Sequence[str]) -> np.ndarray:
        options = {"truncation": True, "max_length": MOST_TOKENS, "add_special_tokens": False}
        rows = [[start, *ids] for ids in tokenizer(list(texts), **options)["input_ids"]]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [start] * (longest - len(row)) for row in rows], device=model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=model.device)
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
        nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        there = mask[:, 1:].float()
        there[there.sum(1) > 1, 0] = 0
        means: np.ndarray = ((nats * there).sum(1) / there.sum(1)).double().cpu().numpy()
        return means

    return TextModel(
        name=f"{name} (causal language model)",
        dimension=1,
        fingerprint=f"{hash_weights(model)} {MOST_TOKENS} {start}",
        embed=lambda packed: losses(unpack_texts(packed))[:, None],
        note=f"texts are cut at {MOST_TOKENS} tokens",
        most_tokens=MOST_TOKENS,
        count_tokens=token_counter(tokenizer),
        batch_texts=BATCH_TEXTS,
    )
