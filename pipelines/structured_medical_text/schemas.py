"""JSON schemas: those that come with the pipeline, the check of a text, and the one form that can be generated.

That form is bounded, its references filled in, its order fixed. This file is copied into every checkpoint and imports
nothing from clinsynth.
"""

import json
import re
import warnings
from bisect import bisect_left
from typing import Annotated, Any

import jsonschema
from llguidance import LLMatcher
from pydantic import BaseModel, ConfigDict, Field, ValidationError

LONGEST_NUMBER = 16
LONGEST_PATTERN = 4096
BYTES_A_CHARACTER = 4
MOST_ITEMS = 20
MOST_INTEGERS = 1000

Schema = type[BaseModel] | dict[str, Any]


class GeneratedSamples(BaseModel):
    """Posts of one class in one object, the form of the e-health AIGC paper (arXiv 2501.16348)."""

    model_config = ConfigDict(extra="forbid")

    samples: Annotated[list[Annotated[str, Field(min_length=20, max_length=400)]], Field(min_length=1, max_length=4)]


class Icd10Report(BaseModel):
    """A mental-health report on one ICD-10 code; lengths in characters."""

    model_config = ConfigDict(extra="forbid")

    presenting_complaint: Annotated[str, Field(min_length=40, max_length=400)]
    history: Annotated[str, Field(min_length=80, max_length=800)]
    mental_status_examination: Annotated[str, Field(min_length=80, max_length=800)]
    risk: Annotated[str, Field(min_length=20, max_length=400)]
    assessment: Annotated[str, Field(min_length=40, max_length=600)]
    plan: Annotated[str, Field(min_length=40, max_length=600)]


def json_schema(schema: Schema) -> dict[str, Any]:
    """The JSON schema of a pydantic model, or the given one.

    Raises:
        ValueError: it is neither, or no valid JSON schema.
    """
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return schema.model_json_schema()
    if not isinstance(schema, dict):
        raise ValueError(f"schema must be a pydantic model's class or a dict, got {type(schema).__name__}")
    try:
        jsonschema.validators.validator_for(schema).check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"schema is not valid JSON schema at {error.json_path}: {error.message}") from error
    return schema


def check_text(text: str, schema: Schema) -> tuple[dict[str, Any] | None, str | None]:
    """The object that `text` holds, and None; or None, and the reason why it is refused, without any of the text."""
    try:
        data = json.loads(text)
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode()  # refuses infinity and halves of a character
    except (ValueError, RecursionError):
        return None, "not JSON"
    if isinstance(schema, dict):
        error = next(iter(validator(schema).iter_errors(data)), None)
        return (data, None) if error is None else (None, f"{error.validator} at {error.json_path}")
    try:
        return schema.model_validate(data, strict=True).model_dump(mode="json"), None
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False)[0]
        return None, f"{first['type']} at {'.'.join(['$', *map(str, first['loc'])])}"


def validator(schema: dict[str, Any]) -> Any:
    """jsonschema's validator of the schema's draft."""
    return jsonschema.validators.validator_for(schema)(schema)


def bounded(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that allows no value which `schema` forbids by its types, names, lengths, choices and patterns.

    References are filled in, all properties are required, in their order, and no others allowed; an array without
    `maxItems` has at most 20; an integer between bounds less than 1,000 apart is a choice. Bounds of other numbers,
    `uniqueItems` and `format` are left to the check of the finished text.

    Raises:
        ValueError: the schema has no bound, cannot be met, or is of a kind that is not known here; names the place.
    """
    result = bound(schema, schema, "$", ())
    if result.get("type") != "object":
        raise ValueError("schema must be of type object; wrap the value in an object with one property")
    return result


def bound(node: Any, root: dict[str, Any], place: str, within: tuple[str, ...]) -> dict[str, Any]:
    """`bounded` for the part of the schema at `place`, which lies `within` these references."""
    if not isinstance(node, dict):
        raise ValueError(f"schema at {place} allows anything; give it a type")
    if "$ref" in node:
        if node["$ref"] in within:
            raise ValueError(f"schema at {place} holds itself ({node['$ref']}) without bound; write its levels out")
        return bound(resolve(node["$ref"], root, place), root, place, (*within, node["$ref"]))
    if len(node.get("allOf", [])) == 1:
        return bound({**node["allOf"][0], **without(node, "allOf")}, root, place, within)
    options = node.get("anyOf") or node.get("oneOf")
    if options or isinstance(node.get("type"), list):
        options = options or [{**node, "type": kind} for kind in node["type"]]
        return choice([bound(option, root, place, within) for option in options], place)
    if "const" in node or "enum" in node:
        return enumeration(node.get("enum", [node.get("const")]), place)
    kind = node.get("type", "object" if "properties" in node else None)
    if kind == "object":
        return bound_object(node, root, place, within)
    if kind == "array":
        return bound_array(node, root, place, within)
    if kind == "string":
        return bound_string(node, place)
    if kind in ("integer", "number"):
        return bound_number(node, kind, place)
    if kind in ("boolean", "null"):
        return {"type": kind}
    raise ValueError(f"schema at {place} has no type that can be generated ({kind!r}); give string, object, …")


def without(node: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key != name}


def resolve(reference: str, root: dict[str, Any], place: str) -> Any:
    """What a reference of the form #/$defs/Name stands for."""
    node: Any = root
    if reference == "#":
        return root
    for part in reference.removeprefix("#").strip("/").split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        if not reference.startswith("#/") or not isinstance(node, dict) or name not in node:
            raise ValueError(f"schema at {place} refers to {reference}, which it does not hold; put it under $defs")
        node = node[name]
    return node


def choice(options: list[dict[str, Any]], place: str) -> dict[str, Any]:
    """One of several, which must differ in their first character, so that it is clear which one is being written."""
    starts = [start for option in options for start in first_characters(option)]
    if len(set(starts)) < len(starts):
        raise ValueError(
            f"schema at {place} allows several forms that begin alike (two of {kinds(options)}); keep one of them, or "
            "give each a property of its own"
        )
    return options[0] if len(options) == 1 else {"anyOf": options}


def kinds(options: list[dict[str, Any]]) -> str:
    return ", ".join(sorted(str(option.get("type", "a choice")) for option in options))


def first_characters(node: dict[str, Any]) -> set[str]:
    """What a value of a bounded schema can begin with."""
    if "anyOf" in node:
        return {start for option in node["anyOf"] for start in first_characters(option)}
    if "enum" in node:
        return {text[0] for text in node["x-texts"]}
    starts = {"object": "{", "array": "[", "string": '"', "boolean": "tf", "null": "n"}
    return set(starts.get(node["type"], "-0123456789"))


def enumeration(values: list[Any], place: str) -> dict[str, Any]:
    """A choice of strings or of numbers."""
    texts = [json.dumps(value, ensure_ascii=False) for value in values]
    if values and all(isinstance(value, str) for value in values):
        return {"type": "string", "enum": values, "x-texts": texts}
    if values and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return {"enum": values, "x-texts": texts}
    if values in ([True], [False], [None]):
        raise ValueError(f"schema at {place} has the constant {values[0]}; leave the property out and add it later")
    raise ValueError(f"schema at {place}: a choice must be of strings alone or of numbers alone; split it by anyOf")


def bound_object(node: dict[str, Any], root: dict[str, Any], place: str, within: tuple[str, ...]) -> dict[str, Any]:
    properties = node.get("properties")
    if not properties:
        raise ValueError(f"schema at {place} is an object without properties; list them")
    unknown = [name for name in node.get("required", []) if name not in properties]
    if unknown:
        raise ValueError(f"schema at {place} requires {unknown[0]!r}, which is not among its properties; describe it")
    parts = {name: bound(part, root, f"{place}.{name}", within) for name, part in properties.items()}
    marks = [", " if number else "{" for number in range(len(parts))]
    leads = [(mark, json.dumps(name, ensure_ascii=False), ": ") for mark, name in zip(marks, parts, strict=True)]
    form = {"type": "object", "properties": parts, "required": list(parts), "additionalProperties": False}
    return {**form, "x-leads": leads}


def bound_array(node: dict[str, Any], root: dict[str, Any], place: str, within: tuple[str, ...]) -> dict[str, Any]:
    least = node.get("minItems", 0)
    most = node.get("maxItems", max(MOST_ITEMS, least))
    if not isinstance(node.get("items"), dict):
        raise ValueError(f"schema at {place} is an array without items; give their schema")
    if most < max(1, least):
        raise ValueError(f"schema at {place} cannot be met: minItems is {least} and maxItems {most}")
    items = bound(node["items"], root, f"{place}[]", within)
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def bound_string(node: dict[str, Any], place: str) -> dict[str, Any]:
    if "pattern" in node:
        return bound_pattern(node, place)
    least, most = node.get("minLength", 0), node.get("maxLength")
    if most is None:
        raise ValueError(f"schema at {place} is a string without maxLength, which may never end; give it one")
    if most < max(1, least):
        raise ValueError(f"schema at {place} cannot be met: minLength is {least} and maxLength {most}")
    return {"type": "string", "minLength": least, "maxLength": most}


def bound_pattern(node: dict[str, Any], place: str) -> dict[str, Any]:
    """A string by its pattern, which is taken as that of the whole string."""
    pattern = re.sub(r"(?<!\\)((?:\\\\)*)\$$", r"\1", node["pattern"].removeprefix("^"))
    if "minLength" in node or "maxLength" in node:
        raise ValueError(f"schema at {place} has a pattern and a length; write the length into the pattern: {{2,8}}")
    if re.search(r"(?<!\\)(?:\\\\)*\\[DW]", pattern):
        raise ValueError(
            f"schema at {place}: pattern {pattern!r} has \\D or \\W, which each engine reads in its own way"
        )
    try:
        with warnings.catch_warnings(action="error"):
            re.compile(pattern)
        longest = longest_match(pattern)
    except (re.error, Warning, ValueError) as error:
        raise ValueError(f"schema at {place}: pattern {pattern!r} cannot be used ({error}); simplify it") from error
    if longest < 0:
        raise ValueError(f"schema at {place} cannot be met: no text fits the pattern {pattern!r}")
    if longest == LONGEST_PATTERN:
        raise ValueError(f"schema at {place}: pattern {pattern!r} has no longest match; give it bounds like {{1,9}}")
    return {"type": "string", "pattern": pattern, "x-longest": longest}


def longest_match(pattern: str) -> int:
    """Characters of the longest text by a pattern, at most LONGEST_PATTERN; -1 where there is none.

    Raises:
        ValueError: the pattern is not one that llguidance knows.
    """
    lengths = range(LONGEST_PATTERN + 1)
    return bisect_left(lengths, True, key=lambda least: not is_matched(pattern, least)) - 1


def is_matched(pattern: str, least: int) -> bool:
    """Whether a text of `least` characters or more fits a pattern; errors as of `longest_match`."""
    error = LLMatcher.validate_grammar(pattern_grammar(pattern, minLength=least))
    if error and "Unsatisfiable" not in error:
        raise ValueError(" ".join(error.split()))
    return not error


def pattern_schema(pattern: str, **lengths: int) -> dict[str, Any]:
    """The schema of a string that is all of a pattern, as llguidance takes it."""
    layout = {"whitespace_flexible": False, "json_allowed_escapes": 'nt"\\'}
    return {"type": "string", "pattern": f"^(?:{pattern})$", **lengths, "x-guidance": layout}


def pattern_grammar(pattern: str, **lengths: int) -> str:
    """llguidance's grammar of that schema."""
    return LLMatcher.grammar_from_json_schema(pattern_schema(pattern, **lengths))


def bound_number(node: dict[str, Any], kind: str, place: str) -> dict[str, Any]:
    low = node.get("minimum", node.get("exclusiveMinimum", -1) + 1 if "exclusiveMinimum" in node else None)
    high = node.get("maximum", node.get("exclusiveMaximum", 1) - 1 if "exclusiveMaximum" in node else None)
    if kind == "number" or low is None or high is None or high - low > MOST_INTEGERS:
        return {"type": kind}
    step = node.get("multipleOf", 1)
    values = [value for value in range(int(-(-low // 1)), int(high // 1) + 1) if value % step == 0]
    if not values:
        raise ValueError(f"schema at {place} cannot be met: no whole number lies between {low} and {high}")
    return enumeration(values, place)


def most_tokens(node: dict[str, Any], shortest: bool = False) -> int:
    """Tokens that a value of a bounded schema may take, at one a character of its texts and one a byte of the rest.

    With `shortest`, texts and lists are as short as they may be, a list of one item at least.
    """
    if "anyOf" in node:
        return max(most_tokens(option, shortest) for option in node["anyOf"])
    if "enum" in node:
        return max(len(text.encode()) for text in node["x-texts"])
    if node["type"] == "object":
        names = sum(len("".join(lead).encode()) for lead in node["x-leads"])
        return 2 + names + sum(most_tokens(part, shortest) for part in node["properties"].values())
    if node["type"] == "array":
        items = max(1, node["minItems"]) if shortest else node["maxItems"]
        return 2 + int(items) * (2 + most_tokens(node["items"], shortest))
    if node["type"] == "string":
        bound = (
            BYTES_A_CHARACTER * node["x-longest"]
            if "pattern" in node
            else node["minLength" if shortest else "maxLength"]
        )
        return 2 + int(bound)
    return LONGEST_NUMBER


def rise(node: dict[str, Any]) -> int:
    """By how many tokens more a place of a text may be off its shortest end than an earlier one was, for what has been
    begun or chosen."""
    if "anyOf" in node:
        return most_tokens(node, shortest=True)
    if "enum" in node:
        sizes = [len(text.encode()) for text in node["x-texts"]]
        return max(sizes) - min(sizes)
    if node["type"] == "object":
        return sum(rise(part) for part in node["properties"].values())
    if node["type"] == "array":
        return 2 + most_tokens(node["items"], shortest=True)
    return most_tokens(node) if "pattern" in node else {"string": 0, "integer": 1, "number": 1}.get(node["type"], 2)
