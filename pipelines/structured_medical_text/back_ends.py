"""What decides which tokens may follow: llguidance, or in its place lm-format-enforcer or xgrammar.

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
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import torch
from llguidance import LLExecutor, LLMatcher
from llguidance.numpy import fill_next_token_bitmask_par

from .schema_text import grammar
from .vocabulary import Vocabulary, is_cut

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
