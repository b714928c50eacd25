"""What a picture is compared with by an image-text model: for each item a statement and its negation.

This file is copied into every checkpoint of a judge: it imports nothing from clinsynth.
"""

from typing import Any


def statements_of(checklist: dict[str, Any], condition: str) -> dict[str, tuple[str, str]]:
    """Item id to what is so where the item is met, and what is so where it is not.

    An item may have both, `statement` and `negation`. Without a negation it is "It is not so that" before the
    statement; without a statement the two are the modality and the question, answered by yes and by no.
    """
    return {item["id"]: pair_of(item, checklist["modality"]) for item in checklist["conditions"][condition]}


def pair_of(item: dict[str, Any], modality: str) -> tuple[str, str]:
    """`statements_of` for one item."""
    statement = item.get("statement")
    if statement:
        return statement, item.get("negation") or f"It is not so that: {statement}"
    return f"{modality}. {item['question']} Yes.", f"{modality}. {item['question']} No."


def context_of(tokenizer: Any, model: Any) -> int:
    """Tokens that the text part of an image-text model reads."""
    if tokenizer is None:
        raise ValueError("an image-text model needs its tokenizer, to read statements; give tokenizer=")
    return int(min(tokenizer.model_max_length, model.config.get_text_config().max_position_embeddings))


def check_lengths(tokenizer: Any, context: int, checklist: dict[str, Any]) -> None:
    """Raise a `ValueError` for a statement of which the model would not read the end."""
    for condition in checklist["conditions"]:
        for item, pair in statements_of(checklist, condition).items():
            longest = max(len(tokenizer(text).input_ids) for text in pair)
            if longest > context:
                raise ValueError(
                    f"condition {condition!r}, item {item} has a statement of {longest} tokens, but the model reads "
                    f"{context}; give the item a shorter statement and negation in the checklist"
                )
