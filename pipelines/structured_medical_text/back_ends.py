"""The tokens of a tokenizer as bytes, and what decides which of them may follow: llguidance, or in its place
lm-format-enforcer or xgrammar.

Tokens are bytes here, not decoded text: a letter or emoji may be spread over several tokens.

Where those two differ from llguidance, the check of the finished text refuses what the schema does not allow.
xgrammar 0.2: a text with minLength or maxLength holds no backslash, and so no double quotation mark and no line break;
it may hold bytes that are no UTF-8; numbers may have an exponent and any count of digits. lm-format-enforcer 0.11:
about ten times slower; names, choices and patterns must be of ASCII without quotation marks, backslashes and double
blanks; blanks at the beginning of a text are not counted, and blanks may stand between all parts; numbers as of
xgrammar. Both are imported when they are asked for, by their names as texts, since transformers wants all that a
checkpoint's code imports.

This file is copied into every checkpoint and imports nothing from clinsynth.
"""

import json
import re
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import cache, cached_property, lru_cache
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import torch
from llguidance import LLExecutor, LLMatcher
from llguidance.hf import from_tokenizer
from llguidance.numpy import fill_next_token_bitmask_par

from .schema_text import grammar

SLICES = [rf'[^"\\\x00-\x1F\x7F-\x9F]{{1,{most}}}' for most in (8, 16, 32)]
"""Tokens of letters alone, by their longest: llguidance looks at each such group once, not at each of its tokens."""
CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
NOT_PLAIN = re.compile(r'["\\\x00-\x1f\x7f-\x9f]')
CONTINUATION = re.compile(rb"[\x80-\xbf]+")
SINGLE_BYTES = [*range(0x20, 0x7F), *range(0x80, 0xC0), *range(0xC2, 0xF5)]
"""What UTF-8 without control characters is made of."""

_known: "weakref.WeakKeyDictionary[Any, Vocabulary]" = weakref.WeakKeyDictionary()


class Vocabulary:
    """The V tokens of a tokenizer; masks are int32 (V / 32, rounded up), token t being bit t % 32 of number t // 32.

    Attributes:
        engine: llguidance's form of the tokenizer.
        count: how many tokens the tokenizer had.
        tokens: the bytes of each; of special and added ones, which are no text, none.
        usable: mask of those that may stand in JSON at all. Where the vocabulary lacks bytes, so that a character once
            begun might not be finished, that is whole characters only.

    Raises:
        ValueError: the tokens cannot be told in bytes, or none is the double quote alone.
    """

    def __init__(self, tokenizer: Any):
        try:
            self.engine = from_tokenizer(tokenizer, slices=SLICES)
        except ValueError as error:
            raise ValueError(
                f"the tokens of tokenizer {tokenizer.name_or_path!r} cannot be told in bytes ({error}); take a model "
                "with byte-level BPE or SentencePiece with bytes"
            ) from error
        self.count = len(tokenizer)
        no_text = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        numbers = range(self.engine.vocab_size)
        self.tokens = [b"" if number in no_text else self.engine.decode_bytes([number]) for number in numbers]
        bytes_there = {token[0] for token in self.tokens if len(token) == 1}
        if ord('"') not in bytes_there:
            raise ValueError('the tokenizer has no token for the double quote ("); it cannot write JSON')
        whole = not bytes_there.issuperset(SINGLE_BYTES)
        self.usable = self.pack(
            bool(token) and not CONTROL.search(token) and not (whole and is_cut(token)) for token in self.tokens
        )

    def pack(self, allowed: Iterable[bool]) -> np.ndarray:
        """A mask of V yes or no."""
        bits = np.fromiter(allowed, dtype=bool, count=len(self.tokens))
        return np.packbits(np.pad(bits, (0, -len(bits) % 32)), bitorder="little").view(np.int32)

    def spell(self, text: bytes) -> list[int]:
        """The tokens of a stretch of UTF-8, as the tokenizer cuts it where that gives back the same bytes.

        Raises:
            ValueError: the vocabulary lacks a character of it.
        """
        for cut in (self.engine.tokenize_str, self.engine.greedy_tokenize):
            tokens = cut(text.decode())
            if b"".join(self.tokens[token] for token in tokens) == text:
                return tokens
        raise ValueError(
            f"the tokenizer cannot write {text.decode()!r}, which the schema asks for; use a model whose vocabulary "
            "holds all single bytes"
        )

    @cached_property
    def characters(self) -> np.ndarray:
        """How many characters each token (V) has; 0 for one that does not leave a JSON string as open as it was."""
        whole = ("" if is_cut(token) else token.decode() for token in self.tokens)
        return np.array([0 if NOT_PLAIN.search(text) else len(text) for text in whole])

    @cached_property
    def continuing(self) -> np.ndarray:
        """How many bytes each token (V) has that only goes on with a character; 0 for the others."""
        return np.array([len(token) if CONTINUATION.fullmatch(token) else 0 for token in self.tokens])

    def within_text(self, most: int) -> np.ndarray:
        """Mask of the tokens of one character to `most`."""
        return self.pack((self.characters > 0) & (self.characters <= most))

    def going_on(self, most: int) -> np.ndarray:
        """Mask of the tokens that go on with a character by one byte to `most`."""
        return self.pack((self.continuing > 0) & (self.continuing <= most))


def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """The vocabulary of a transformers tokenizer, built once (0.6 s for 49k tokens); errors as of a `Vocabulary`."""
    known = _known.get(tokenizer)
    if known is None or known.count != len(tokenizer):  # tokens may be added to it
        known = _known[tokenizer] = Vocabulary(tokenizer)
    return known


def is_cut(token: bytes) -> bool:
    """Whether a token begins or ends within a character."""
    try:
        token.decode()
    except UnicodeDecodeError:
        return True
    return False


NOT_ENFORCED = re.compile(r'["\\]|[^ -~]|  ')
"""What lm-format-enforcer cannot write in a name or a choice."""


class State(Protocol):
    """The state of one text."""

    def compute_ff_bytes(self) -> bytes:
        """What must follow, as far as that is known."""

    def consume_token(self, token: int) -> bool:
        """Go on by a token; False where it is not allowed, after which the state is of no use."""

    def is_stopped(self) -> bool:
        """Whether nothing can follow but the end token."""


Masked = list[tuple[Any, int]]
"""States, and the row of the masks that is each one's."""


class BackEnd(Protocol):
    """A bounded schema on a vocabulary.

    Attributes:
        counts_blanks: whether blanks that begin a string count for its length.
    """

    counts_blanks: bool

    def start(self) -> State:
        """The state of a text before its first token."""

    def fill(self, states: Masked, bits: np.ndarray) -> None:
        """Write the masks of what may follow, of states of any schema on the vocabulary."""


def back_end(name: str, vocabulary: Vocabulary, form: dict[str, Any]) -> BackEnd:
    """The back end of this name.

    Raises:
        ValueError: there is none, or it cannot use the schema.
        ImportError: it is not installed.
    """
    known: dict[str, Callable[[Vocabulary, dict[str, Any]], BackEnd]] = {
        "llguidance": LLGuidance,
        "lm-format-enforcer": LMFormatEnforcer,
        "xgrammar": XGrammar,
    }
    if name not in known:
        raise ValueError(f"backend must be one of {', '.join(known)}, got {name!r}")
    try:
        return known[name](vocabulary, form)
    except ImportError as error:
        raise ImportError(
            f"backend={name!r} needs the package {name}, which cannot be imported ({error}); pip install "
            f"clinsynth[{'fast' if name == 'xgrammar' else 'text'}], or {name} itself, or leave backend out"
        ) from error


class LLGuidance:
    """llguidance's grammar of the schema."""

    counts_blanks = True

    def __init__(self, vocabulary: Vocabulary, form: dict[str, Any]):
        self.first = LLMatcher(vocabulary.engine, LLMatcher.grammar_from_lark(grammar(form)), log_level=0)
        if self.first.is_error():
            raise ValueError(f"llguidance cannot use the schema ({self.first.get_error()}); simplify it")

    def start(self) -> State:
        return self.first.deep_copy()

    def fill(self, states: Masked, bits: np.ndarray) -> None:
        if states:
            fill_next_token_bitmask_par(executor(), states, bits)


@cache
def executor() -> LLExecutor:
    """Threads for masks, one for all constraints."""
    return LLExecutor()


class XGrammar:
    """xgrammar's grammar of the schema."""

    counts_blanks = True

    def __init__(self, vocabulary: Vocabulary, form: dict[str, Any]):
        self.xgrammar, self.end_token = import_module("xgrammar"), vocabulary.engine.eos_token
        try:
            self.grammar = compiler_of(vocabulary).compile_json_schema(
                json.dumps(form), any_whitespace=False, separators=(", ", ": ")
            )
        except RuntimeError as error:
            raise ValueError(
                f"xgrammar cannot compile the schema ({error}); leave backend='xgrammar' out, or simplify the schema"
            ) from error

    def start(self) -> State:
        return XGrammarState(self.xgrammar.GrammarMatcher(self.grammar, override_stop_tokens=self.end_token))

    def fill(self, states: Masked, bits: np.ndarray) -> None:
        for state, row in states:
            state.matcher.fill_next_token_bitmask(torch.from_numpy(bits), row)


class XGrammarState:
    """xgrammar's matcher as a `State`."""

    def __init__(self, matcher: Any):
        self.matcher = matcher
        self.consume_token, self.is_stopped = matcher.accept_token, matcher.is_completed

    def compute_ff_bytes(self) -> bytes:
        try:
            return str(self.matcher.find_jump_forward_string()).encode()
        except UnicodeDecodeError:  # it begins or ends within a character
            return b""


@lru_cache(maxsize=2)
def compiler_of(vocabulary: Vocabulary) -> Any:
    """xgrammar's compiler for a vocabulary."""
    xgrammar = import_module("xgrammar")
    return xgrammar.GrammarCompiler(xgrammar.TokenizerInfo(vocabulary.tokens, stop_token_ids=[]))


class LMFormatEnforcer:
    """lm-format-enforcer's parser of the schema."""

    counts_blanks = False

    def __init__(self, vocabulary: Vocabulary, form: dict[str, Any]):
        self.data, self.form = enforcer_data(vocabulary), form
        for text in fixed_texts(form):
            if NOT_ENFORCED.search(text):
                raise ValueError(
                    f"lm-format-enforcer cannot write {text!r}, which the schema asks for; leave "
                    "backend='lm-format-enforcer' out"
                )

    def start(self) -> State:
        enforcer = import_module("lmformatenforcer")
        config = enforcer.CharacterLevelParserConfig(
            alphabet=self.data.tokenizer_alphabet,
            max_consecutive_whitespaces=1,
            force_json_field_order=True,
            max_json_array_length=1 << 30,
        )
        parser = enforcer.JsonSchemaParser(self.form, config)
        state = EnforcerState(enforcer.TokenEnforcer(self.data, parser), self.data.eos_token_id)
        parser.config = config  # TokenEnforcer has put one of its own in place
        return state

    def fill(self, states: Masked, bits: np.ndarray) -> None:
        for state, row in states:
            bits[row] = state.allowed().allowed_tokens.numpy()


class EnforcerState:
    """lm-format-enforcer's enforcer of one text, which keeps all it has seen, as a `State`."""

    def __init__(self, enforcer: Any, end_token: int):
        self.enforcer, self.end_token = enforcer, end_token
        self.tokens: list[int] = []

    def allowed(self) -> Any:
        """lm-format-enforcer's list of tokens that may follow; worked out once a place."""
        return self.enforcer.get_allowed_tokens(self.tokens)

    def consume_token(self, token: int) -> bool:
        is_allowed = bool(self.allowed().is_token_allowed(token))
        self.tokens.append(token)
        return is_allowed

    def compute_ff_bytes(self) -> bytes:
        return b""

    def is_stopped(self) -> bool:
        """Where it has come to a dead end too."""
        allowed = self.allowed()
        return bool(allowed.is_token_allowed(self.end_token)) or not allowed.allowed_tokens.any()


@lru_cache(maxsize=2)
def enforcer_data(vocabulary: Vocabulary) -> Any:
    """lm-format-enforcer's form of a vocabulary, of whole characters only."""
    usable = np.unpackbits(vocabulary.usable.view(np.uint8), bitorder="little").nonzero()[0].tolist()
    texts = [(token, vocabulary.tokens[token]) for token in usable if not is_cut(vocabulary.tokens[token])]
    words = [(token, text.decode(), True) for token, text in texts]
    size = len(vocabulary.tokens)
    data = import_module("lmformatenforcer").TokenEnforcerTokenizerData
    return data(words, lambda tokens: "", vocabulary.engine.eos_token, True, size)


def fixed_texts(node: dict[str, Any]) -> Iterator[str]:
    """The names, choices and patterns of a bounded schema."""
    for option in node.get("anyOf", []):
        yield from fixed_texts(option)
    yield from (value for value in node.get("enum", []) if isinstance(value, str))
    for name, part in node.get("properties", {}).items():
        yield name
        yield from fixed_texts(part)
    if "items" in node:
        yield from fixed_texts(node["items"])
    if "pattern" in node:
        yield re.sub(r"\\(?!\\)", "", node["pattern"])
