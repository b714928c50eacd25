"""What the tabs share: how the page looks, the errors it shows, and files that visitors send and take away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from sets import set_names

TITLE = "clinsynth studio"
BANNER = (
    "**This page is not for diagnosis, treatment or any other decision about a person.** What the tabs Images and "
    "Text make is synthetic and shows no patient. The tabs Evidence and Review also show real samples, where a real "
    "set is given."
)
TABS = ("images", "text", "evidence", "review")
SANS = ("system-ui", "sans-serif")
MONO = ("ui-monospace", "monospace")
CSS = """
button[role=tab][aria-selected=true] {color: var(--link-text-color);}
a[download] {color: var(--body-text-color) !important; text-decoration: underline;}
#banner {border-left: 4px solid #d97706; padding: 0.25rem 0.75rem;}
#images img {image-rendering: pixelated; aspect-ratio: 1; height: auto;}
#images .grid-wrap {min-height: 0; max-height: none; height: auto;}
#images .grid-container {grid-template-columns: repeat(auto-fill, minmax(max(100px, 22%), 1fr)) !important;}
#images .preview img {width: min(100%, 512px); height: auto; object-fit: contain;}
#images .thumbnail-lg {aspect-ratio: auto; display: flex; flex-direction: column;}
#images .caption-label {position: static; max-width: none; width: 100%; white-space: normal; text-align: left;}
#texts article {border-top: 1px solid var(--border-color-primary); padding: 0.75rem 0; overflow-wrap: anywhere;}
#texts h2 {font-weight: 600;}
#texts h3 {color: var(--body-text-color-subdued); margin-top: 0.5rem;}
#texts p {white-space: pre-wrap;}
"""
POLL_SECONDS = 1.0
"""How often a page asks for the example until it is there."""
MARKUP = f"() => {{{(Path(__file__).parent / 'markup.js').read_text(encoding='utf-8')}}}"
ASIDE: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
"""Of events that cost nothing and cannot fail: they take no place in the queue, and only the page may call them."""


class HandOver(NamedTuple):
    """Where a tab takes a set that another tab has made.

    Attributes:
        file: its field of an upload.
        follow: a further component, and the function from the set's file to its update; None for none.
    """

    file: gr.File
    follow: tuple[gr.components.Component, Callable[[str], Any]] | None = None


def hand_over(button: gr.Button, made: gr.DownloadButton, tabs: gr.Tabs, tab: str, to: HandOver) -> None:
    """Have `button` bring the file behind the download `made` to another tab, and open that."""

    @errors_as_messages()
    def move(path: str | None) -> list[Any]:
        if path is None:
            raise ValueError("there is no finished set yet; wait for its download, or make one anew, and press again")
        # a copy: what is uploaded is deleted after use, and the download is to stay
        copy = downloadable(f"made-here{Path(path).suffix}", Path(path).read_bytes())
        more = [to.follow[1](copy)] if to.follow else []
        return [gr.Tabs(selected=tab), copy, *more]

    button.click(move, made, [tabs, to.file, *([to.follow[0]] if to.follow else [])], api_visibility="private")


def nothing_yet() -> gr.DownloadButton:
    """The download while a set is being made: not the one before, which the page no longer shows."""
    return gr.DownloadButton(value=None, interactive=False)


def open_tab(request: gr.Request) -> Any:
    """The tab that the address names, as ?tab=review."""
    tab = request.query_params.get("tab")
    return gr.Tabs(selected=tab) if tab in TABS else gr.skip()


def snippet(code: str) -> None:
    """How the tab's endpoint is called from a program."""
    with gr.Accordion("Use it from Python", open=False):
        gr.Code(code, language="python", interactive=False, label="Needs the package gradio_client")


def theme() -> gr.themes.Base:
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
def errors_as_messages() -> Iterator[None]:
    """Show errors of the user, in the block or the function that it decorates, as messages that hold no path.

    A function that streams needs the block: its call is over before anything can go wrong.
    """
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        from clinsynth.private_words import shorten

        raise gr.Error(shorten(str(error)), print_exception=False) from error


def escape(text: str) -> str:
    """Text of a visitor, a checklist or a set as plain words within Markdown."""
    return "".join(f"\\{sign}" if sign in "\\`*_[]<>#|$" else sign for sign in text)


def set_fields(label: str, picked: str, suffixes: list[str], *others: str) -> tuple[gr.Dropdown, gr.File]:
    """A set to pick, of `others` and those that are here, or to upload as .zip or with one of the suffixes."""
    upload = f"Or upload .zip, {', '.join(suffixes)}"
    return (
        gr.Dropdown([*others, *set_names()], value=picked, label=label, min_width=280),
        gr.File(label=upload, file_types=[".zip", *suffixes], height=160, min_width=280),
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


def downloadable(name: str, content: bytes) -> str:
    """A file where gradio serves files from and deletes them in time (`delete_cache` of the app)."""
    path: str = save_bytes_to_cache(content, name, get_upload_folder())
    return path
