"""The schemas that come with the pipeline, and how a text is checked against a schema.

This file is copied into every checkpoint and imports nothing from clinsynth.
"""

import json
from typing import Annotated, Any

import jsonschema
from pydantic import BaseModel, ConfigDict, Field, ValidationError

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
