"""Prompts of a task: what is asked of the language model for one row, as messages and as its tokens.

A prompt depends on the task, the label, the examples and the row's seed alone. The seed draws a persona, two
situations, a style and a length, so that two rows do not share a prompt. This file is copied into every checkpoint and
imports nothing from clinsynth.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, TypeVar

import torch
from jinja2 import StrictUndefined, Template, TemplateError, nodes, pass_eval_context
from jinja2.filters import do_join
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

T = TypeVar("T")

THINK, END_OF_THOUGHT = "<think>", "</think>"
"""What reasoning models (DeepSeek-R1, Qwen 3) write around their thoughts."""
THOUGHT = f"{END_OF_THOUGHT}\n\n"
CHARACTERS_A_WORD = 6.5
WORDS_WITHOUT_BOUNDS = (20, 150)
CONTROL = re.compile(r"<|\[(?=/?[gs]?[A-Z][A-Z_]+\])")
"""What chat templates begin their control tokens with: `<s>`, `<|im_end|>`, `[INST]`, `[gMASK]`."""
BIDI_OR_CONTROL = re.compile("[\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Invisible signs that reorder text on a screen, and control characters that JSON leaves as they are."""

MOST_CHARACTERS = 200_000
"""Of a message that a template makes."""
LONGEST_TEMPLATE = 20_000
MOST_LOOPS = 2
FILTERS = set(
    "abs capitalize count d default e escape first int last length list lower map random reject rejectattr reverse "
    "select selectattr sort string title trim truncate unique upper wordcount".split()
)
TEXT_METHODS = set("capitalize endswith lower lstrip rstrip split startswith strip title upper".split())
KEEPS = (nodes.Assign, nodes.AssignBlock, nodes.Macro, nodes.CallBlock, nodes.With, nodes.FilterBlock)


@dataclass(frozen=True)
class Task:
    """One kind of text to generate.

    Attributes:
        name: as in `recipes/tasks/<name>.yaml`.
        schema: JSON schema of a row, an object.
        system, user: Jinja2 templates of the two messages. They see `label`, `meaning`, `persona`, `situation`,
            `background`, `style`, `words` (a length to aim at) and `examples` (each with `id` and `text`), the filter
            `quote` and nothing else.
        labels: label to its meaning.
        personas, situations, styles: what a row's seed draws from; two situations a row.
    """

    name: str
    schema: dict[str, Any]
    system: str
    user: str
    labels: dict[str, str]
    personas: list[str]
    situations: list[str]
    styles: list[str]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Task":
        """A checked task.

        Raises:
            ValueError: a field is missing, unknown, empty or of another type, or a template is not valid; names it.
        """
        name = values.get("name", "(without a name)")
        known = {field.name for field in fields(cls)}
        if known != set(values):
            raise ValueError(
                f"task {name}: fields must be {', '.join(sorted(known))}; "
                f"missing: {listed(known - set(values))}, unknown: {listed(set(values) - known)}"
            )
        task = cls(**values)
        task.check()
        return task

    def to_dict(self) -> dict[str, Any]:
        """The task as `from_dict` takes it, of JSON's types only."""
        return asdict(self)

    def check(self) -> None:
        """Raise a `ValueError` that names the field and what it must be."""
        for field in ("name", "system", "user"):
            if not is_text(getattr(self, field)):
                raise ValueError(f"task {self.name}: {field} must be a text that is not empty")
        schema = self.schema if isinstance(self.schema, dict) else {}
        if schema.get("type") != "object" or not schema.get("properties"):
            raise ValueError(f"task {self.name}: schema must be a JSON schema of type object, with properties")
        if not isinstance(self.labels, dict) or not self.labels:
            raise ValueError(f"task {self.name}: labels must name at least one label with its meaning")
        for label, meaning in self.labels.items():
            if not is_text(label) or not is_text(meaning):
                raise ValueError(
                    f"task {self.name}: label {label!r} and its meaning must be texts; put them in quotes"
                )
        for field in ("personas", "situations", "styles"):
            check_choices(self.name, field, getattr(self, field), least=2 if field == "situations" else 1)
        render_messages(self, label=next(iter(self.labels)), k_shot=[{"id": "0", "text": "text"}], seed=0)


def is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def listed(names: set[str]) -> str:
    return ", ".join(sorted(map(str, names))) or "none"


def check_choices(name: str, field: str, choices: Any, least: int) -> None:
    if not isinstance(choices, list) or len(choices) < least or not all(is_text(choice) for choice in choices):
        raise ValueError(f"task {name}: {field} must be a list of {least} or more texts")
    twice = [choice for number, choice in enumerate(choices) if choice in choices[:number]]
    if twice:
        raise ValueError(f"task {name}: {field} holds {twice[0]!r} twice; remove one")


def render_messages(task: Task, *, label: str, k_shot: list[dict[str, Any]], seed: int) -> list[dict[str, str]]:
    """The messages (`role`, `content`) that ask for one row; the same for the same arguments, always.

    Args:
        label: one of the task's.
        k_shot: examples with `id` and `text`. A template sees them as values: what they hold is never run as a
            template, and `quote` keeps it from ending its quotation or opening a turn of the conversation.
        seed: of the row; draws persona, situation, background, style and words.

    Raises:
        ValueError: an unknown label, or a template that fails; names it and the reason.
    """
    if label not in task.labels:
        raise ValueError(f"label {label!r} is unknown to task {task.name}; its labels are {', '.join(task.labels)}")
    situation, background = draw(task.situations, 2, seed, "situation")
    values = {
        "label": label,
        "meaning": task.labels[label],
        "persona": draw(task.personas, 1, seed, "persona")[0],
        "situation": situation,
        "background": background,
        "style": draw(task.styles, 1, seed, "style")[0],
        "words": draw(word_range(task.schema), 1, seed, "words")[0],
        "examples": k_shot,
    }
    templates = {"system": task.system, "user": task.user}
    return [{"role": role, "content": render_template(task, role, text, values)} for role, text in templates.items()]


def render_template(task: Task, role: str, template: str, values: dict[str, Any]) -> str:
    parts: list[str] = []
    left = MOST_CHARACTERS
    try:
        for part in compiled(template).generate(values):
            left -= len(part)
            if left < 0:
                raise SecurityError(f"it makes more than {MOST_CHARACTERS:,} characters")
            parts.append(part)
        return "".join(parts).strip()
    except (TemplateError, TypeError, ArithmeticError, RecursionError) as error:
        raise ValueError(
            f"task {task.name}: the template {role} fails: {error}; mend it in the task's file"
        ) from error


@lru_cache(maxsize=64)
def compiled(template: str) -> Template:
    """The sandboxed template: compiling one takes longer than the hundred rows it is then rendered for."""
    environment = Sandbox(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals.clear()
    environment.filters = {name: environment.filters[name] for name in FILTERS} | {"quote": quote, "join": join}
    check_bounds(environment, template)
    return environment.from_string(template)


class Sandbox(ImmutableSandboxedEnvironment):
    """A template's world, in which nothing grows beyond what the template and its values hold."""

    intercepted_binops = frozenset(["*", "**", "%"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Products and remainders of numbers; raises a `SecurityError` at what repeats or fills texts, and powers."""
        if operator == "**" or not all(isinstance(side, int | float) for side in (left, right)):
            raise SecurityError(f"{operator} is for numbers here, and powers are unsafe")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Of a text only methods whose result is no longer than it, a sign of its own aside."""
        if isinstance(obj, str) and attr not in TEXT_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)


def check_bounds(environment: Sandbox, template: str) -> None:
    """Raise a `SecurityError` where a template is too long, keeps values, or nests more than two loops."""
    if len(template) > LONGEST_TEMPLATE:
        raise SecurityError(f"it is longer than {LONGEST_TEMPLATE:,} characters")
    tree = environment.parse(template)
    if kept := next(tree.find_all(KEEPS), None):
        raise SecurityError(f"{type(kept).__name__} in line {kept.lineno} is unsafe; show the values as they are")
    deepest = max((depth_of(loop) for loop in tree.find_all(nodes.For)), default=0)
    if deepest > MOST_LOOPS:
        raise SecurityError(f"{deepest} loops stand in one another; at most {MOST_LOOPS} are safe")


def depth_of(loop: nodes.For) -> int:
    """Loops in one another, this one included."""
    return 1 + max((depth_of(inner) for inner in loop.find_all(nodes.For)), default=0)


@pass_eval_context
def join(context: nodes.EvalContext, values: Any, d: str = "", attribute: str | None = None) -> Any:
    """Jinja's own filter, of texts that are not too long together."""
    items = list(values)
    if sum(len(str(item)) + len(d) for item in items) > MOST_CHARACTERS:
        raise SecurityError(f"join makes more than {MOST_CHARACTERS:,} characters")
    return do_join(context, items, d, attribute)


def quote(text: str) -> str:
    """`text` as a JSON string that holds no line break, no sign of direction and no control token of a chat template.

    Reading it as JSON gives the text back, letter by letter.
    """
    escaped = CONTROL.sub(escape, json.dumps(text, ensure_ascii=False))
    return BIDI_OR_CONTROL.sub(escape, escaped).replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match.group()):04x}"


def draw_k_shot(examples: list[dict[str, Any]], k: int, seed: int) -> list[dict[str, Any]]:
    """`k` different of `examples`, chosen and ordered by `seed`, so that rows rotate through all of them.

    Raises:
        ValueError: k is negative or above the number of examples.
    """
    if not 0 <= k <= len(examples):
        raise ValueError(f"k_shot must be 0 to {len(examples)}, the examples there are, got {k}")
    return draw(examples, k, seed, "k_shot")


def draw(items: Sequence[T], count: int, seed: int, purpose: str) -> list[T]:
    """`count` different items by SHA-256 of purpose and seed: the same on every machine and Python version."""
    chosen: dict[int, T] = {}
    for number in numbers(seed, purpose):
        if len(chosen) == count:
            break
        chosen.setdefault(number % len(items), items[number % len(items)])
    return list(chosen.values())


def numbers(seed: int, purpose: str) -> Iterator[int]:
    """Endless whole numbers in [0, 2**64)."""
    step = 0
    while True:
        yield int.from_bytes(hashlib.sha256(f"{purpose} {seed} {step}".encode()).digest()[:8], "big")
        step += 1


def word_range(schema: dict[str, Any]) -> range:
    """How many words a row may have, all its texts together, from their bounds in characters."""
    texts = [field for field in schema.get("properties", {}).values() if field.get("type") == "string"]
    if not texts or not all("maxLength" in field for field in texts):
        return range(*WORDS_WITHOUT_BOUNDS)
    least = max(1, round(sum(field.get("minLength", 0) for field in texts) / CHARACTERS_A_WORD))
    most = round(0.9 * sum(field["maxLength"] for field in texts) / CHARACTERS_A_WORD)
    return range(least, max(least + 1, most))


def encode_messages(tokenizer: Any, messages: list[dict[str, str]], thinking: bool = False) -> list[int]:
    """Tokens of a prompt after which the model is to write its answer, or with `thinking` its thoughts.

    Without a chat template (a base model) the contents stand one after the other, a blank line between and behind. A
    template that refuses a system message gets it at the head of the user's.
    """
    if tokenizer.chat_template is None:
        text = "".join(f"{message['content']}\n\n" for message in messages)
        return list(tokenizer(opened(text, thinking)).input_ids)
    try:
        text = apply_template(tokenizer, messages, thinking)
    except TemplateError:
        if [message["role"] for message in messages] != ["system", "user"]:
            raise
        joined = [{"role": "user", "content": "\n\n".join(m["content"] for m in messages)}]
        text = apply_template(tokenizer, joined, thinking)
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def apply_template(tokenizer: Any, messages: list[dict[str, str]], thinking: bool) -> str:
    """The prompt's text; a model that may think before it answers is told whether to, where the template can."""
    settings = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": thinking}
    return opened(str(tokenizer.apply_chat_template(messages, **settings)), thinking)


def opened(text: str, thinking: bool) -> str:
    """A prompt after which thoughts follow, or after which none do: templates that open them by themselves, such as
    those of DeepSeek-R1, are closed."""
    is_open = text.rstrip().endswith(THINK)
    if thinking:
        return text if is_open else f"{text}{THINK}\n"
    return f"{text.rstrip()}\n{THOUGHT}" if is_open else text


def pad_left(prompts: list[list[int]], pad_token: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token numbers and attention mask, each int64 (batch, longest prompt)."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad_token] * (longest - len(prompt)) + prompt for prompt in prompts])
    attention = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, attention
