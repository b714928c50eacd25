"""A JSON schema brought into the one form that can be generated: bounded, its references filled in, its order fixed.

This file is copied into every checkpoint and imports nothing from clinsynth.
"""

import json
from typing import Any

import interegular

LONGEST_NUMBER = 16
MOST_ITEMS = 20
MOST_INTEGERS = 1000


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
        return {json.dumps(value)[0] for value in node["enum"]}
    starts = {"object": "{", "array": "[", "string": '"', "boolean": "tf", "null": "n"}
    return set(starts.get(node["type"], "-0123456789"))


def enumeration(values: list[Any], place: str) -> dict[str, Any]:
    """A choice of strings or of numbers."""
    if values and all(isinstance(value, str) for value in values):
        return {"type": "string", "enum": values}
    if values and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return {"enum": values}
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
    return {"type": "object", "properties": parts, "required": list(parts), "additionalProperties": False}


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
    pattern = node["pattern"].removeprefix("^").removesuffix("$")
    if "minLength" in node or "maxLength" in node:
        raise ValueError(f"schema at {place} has a pattern and a length; write the length into the pattern: {{2,8}}")
    try:
        fsm = interegular.parse_pattern(pattern).to_fsm()
    except Exception as error:  # interegular's errors have no common class
        raise ValueError(f"schema at {place}: pattern {pattern!r} cannot be used ({error}); simplify it") from error
    longest = longest_match(fsm)
    if longest is None:
        raise ValueError(f"schema at {place}: pattern {pattern!r} has no longest match; give it bounds like {{1,9}}")
    return {"type": "string", "pattern": pattern, "x-longest": longest}


def longest_match(fsm: Any) -> int | None:
    """Characters of the longest text that the automaton accepts, None where there is none."""
    reached = {fsm.initial}
    for length in range(len(fsm.states) + 1):
        reached = {target for state in reached for target in fsm.map.get(state, {}).values() if fsm.islive(target)}
        if not reached:
            return length
    return None


def bound_number(node: dict[str, Any], kind: str, place: str) -> dict[str, Any]:
    low = node.get("minimum", node.get("exclusiveMinimum", -1) + 1 if "exclusiveMinimum" in node else None)
    high = node.get("maximum", node.get("exclusiveMaximum", 1) - 1 if "exclusiveMaximum" in node else None)
    if kind == "number" or low is None or high is None or high - low > MOST_INTEGERS:
        return {"type": kind}
    step = node.get("multipleOf", 1)
    values = [value for value in range(int(-(-low // 1)), int(high // 1) + 1) if value % step == 0]
    if not values:
        raise ValueError(f"schema at {place} cannot be met: no whole number lies between {low} and {high}")
    return {"enum": values}


def most_tokens(node: dict[str, Any]) -> int:
    """Tokens that a value of a bounded schema may take, at one a character of its texts and one a byte of the rest."""
    if "anyOf" in node:
        return max(most_tokens(option) for option in node["anyOf"])
    if "enum" in node:
        return max(len(json.dumps(value, ensure_ascii=False).encode()) for value in node["enum"])
    if node["type"] == "object":
        names = sum(len(json.dumps(name, ensure_ascii=False).encode()) + 4 for name in node["properties"])
        return 2 + names + sum(most_tokens(part) for part in node["properties"].values())
    if node["type"] == "array":
        return 2 + int(node["maxItems"]) * (2 + most_tokens(node["items"]))
    if node["type"] == "string":
        return 2 + int(node.get("maxLength", node.get("x-longest", 0)))
    return LONGEST_NUMBER
