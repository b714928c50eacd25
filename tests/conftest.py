"""What the tests share."""

import os
from pathlib import Path

import pytest
from loopback_hub.fixture import loopback_hub  # noqa: F401 (a fixture)

os.environ["HF_HUB_OFFLINE"] = "1"

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data sets beside the repository; a test that needs it is skipped where it is absent."""
    path = REPOSITORY.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("needs the real data sets in ../shared/data, which are not here")
    return path
