"""What visitors send and take away: uploads that are removed after use, results that outlive their folder, errors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import gradio as gr
from gradio.processing_utils import save_file_to_cache
from gradio.utils import get_upload_folder

P = ParamSpec("P")
T = TypeVar("T")


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
    from clinsynth.private_words import shorten

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except (ValueError, OSError, ImportError) as error:
            raise gr.Error(shorten(str(error)), print_exception=False) from error

    return wrapped
