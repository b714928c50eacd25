"""The pytest fixture `loopback_hub`; a conftest takes it by `from loopback_hub.fixture import loopback_hub`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .hub import LoopbackHub


@pytest.fixture
def loopback_hub(tmp_path: Path) -> Iterator["LoopbackHub"]:
    """A loopback Hub of this test's own; the test fails if a client calls it in a way that the Hub does not know."""
    pytest.importorskip("fastapi", reason="needs FastAPI, which `pip install clinsynth[space]` brings")
    from .hub import running_hub

    with running_hub(tmp_path) as hub:
        yield hub
