"""From a template and what was read of a run to the text of a card."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import CardData

from clinsynth import __version__
from clinsynth.hub_cards.tables import cell, code
from clinsynth.private_words import refuse_private

LOCAL = "path/of/this/folder"
"""What a snippet loads where no repository is named."""


def render_card(template: str, data: CardData, **values: object) -> str:
    """The card: its metadata as YAML between lines of dashes, then the Markdown of `template`.jinja.

    Raises:
        ValueError: the card would give something private away.
    """
    import jinja2  # not before a card is written: a push sends meanwhile

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"cell": cell, "code": code, "listed": listed}
    body = environment.get_template(f"{template}.jinja").render(version=__version__, **values)
    body = re.sub(r"\n{3,}", "\n\n", body).strip()
    return refuse_private(f"---\n{data.to_yaml()}\n---\n\n{body}\n")


def listed(names: Iterable[str], most: int = 12) -> str:
    """`a, b and c`; of a long list the first `most`, and how many more there are."""
    shown = [cell(name) for name in names]
    if len(shown) > most:
        return f"{', '.join(shown[:most])} and {len(shown) - most} more"
    return " and ".join(part for part in (", ".join(shown[:-1]), *shown[-1:]) if part)


def repository_name(repo_id: str | None) -> str:
    """`retina-ddpm` of `me/retina-ddpm`; empty without a repository."""
    return (repo_id or "").rpartition("/")[2]
