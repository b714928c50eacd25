"""How the Space looks: gradio's own theme with the fonts of the reader's machine, and the banner."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import gradio as gr
from gradio.processing_utils import save_file_to_cache
from gradio.utils import get_upload_folder

TITLE = "clinsynth studio"
BANNER = (
    "**Everything that this page makes is synthetic. It shows no patient and is not for diagnosis, treatment or any "
    "other decision about a person.**"
)
SANS = ("system-ui", "sans-serif")
MONO = ("ui-monospace", "monospace")
CSS = """
#banner {border-left: 4px solid #d97706; padding: 0.25rem 0.75rem;}
#pictures img {image-rendering: pixelated; aspect-ratio: 1; height: auto;}
#pictures .grid-wrap {min-height: 0; max-height: none; height: auto;}
#pictures .thumbnail-lg {aspect-ratio: auto; display: flex; flex-direction: column;}
#pictures .caption-label {position: static; max-width: none; width: 100%; white-space: normal; text-align: left;}
#texts article {border-top: 1px solid var(--border-color-primary); padding: 0.75rem 0; overflow-wrap: anywhere;}
#texts h3 {font-weight: 600;}
#texts h4 {color: var(--body-text-color-subdued); margin-top: 0.5rem;}
#texts p {white-space: pre-wrap;}
"""
ASIDE: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
"""Of events that cost nothing and cannot fail: they take no place in the queue, and only the page may call them."""
P = ParamSpec("P")
T = TypeVar("T")


def theme() -> gr.themes.Default:
    """Without fonts from elsewhere, so that the page asks no other server for anything; with readable contrast."""
    return gr.themes.Default(primary_hue="blue", font=SANS, font_mono=MONO).set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_700",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
    )


@contextmanager
def removed_afterwards(*uploads: str | None) -> Iterator[None]:
    """Delete the uploaded files when the block ends, with or without an error."""
    try:
        yield
    finally:
        for upload in filter(None, uploads):
            if Path(upload).resolve().is_relative_to(Path(get_upload_folder()).resolve()):
                Path(upload).unlink(missing_ok=True)


def downloadable(path: Path) -> str:
    """A copy where gradio serves files from and deletes them in time (`delete_cache` of the app)."""
    return save_file_to_cache(path, get_upload_folder())


def error_as_message(function: Callable[P, T]) -> Callable[P, T]:
    """An event whose errors of the user are shown as messages; they hold no path of this machine."""
    from clinsynth.hub_cards.private_words import shorten

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except (ValueError, OSError, ImportError) as error:
            raise gr.Error(shorten(str(error)), print_exception=False) from error

    return wrapped


def errors_as_messages(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """A streaming event whose errors of the user are shown as messages; they hold no path of this machine."""
    from clinsynth.hub_cards.private_words import shorten

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Iterator[Any]:
        try:
            yield from function(*args, **kwargs)
        except (ValueError, OSError, ImportError) as error:
            raise gr.Error(shorten(str(error)), print_exception=False) from error

    wrapped.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]  # gradio fills in the progress
    return wrapped
