"""What may decide which tokens follow: a constraint's class by the name of its back end.

This file is copied into every checkpoint and imports nothing from clinsynth.
"""

from .schema_logits import SchemaConstraint

BACK_ENDS = ("lm-format-enforcer", "xgrammar")


def constraint_class(backend: str) -> type[SchemaConstraint]:
    """The class of constraints on a tokenizer and a schema.

    Raises:
        ValueError: the name is not one of BACK_ENDS.
        ImportError: xgrammar is asked for and cannot be imported.
    """
    if backend == "lm-format-enforcer":
        return SchemaConstraint
    if backend == "xgrammar":
        from .xgrammar_logits import XGrammarConstraint

        return XGrammarConstraint
    raise ValueError(f"backend must be one of {', '.join(BACK_ENDS)}, got {backend!r}")
