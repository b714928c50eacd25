"""What the tests share."""

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from loopback_hub.fixture import loopback_hub  # noqa: F401 (a fixture)

from clinsynth.processes import release_locks

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["XDG_CONFIG_HOME"] = f"{tempfile.gettempdir()}/clinsynth-tests-{os.getuid()}"  # of the key of evidence

REPOSITORY = Path(__file__).parent.parent


SLOWEST = {
    f"test_{name}.py"
    for name in (
        "cluster constrained_decoding constrained_decoding_benchmark docs golden preference_latent preference_loop "
        "preference_training push push_benchmark push_faults space_app space_evidence space_images space_review study "
        "study_texts text_to_image_generate train_ddpm train_text_to_image_lora"
    ).split()
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that none of them is left to one process alone in the end."""
    items.sort(key=lambda item: item.path.name not in SLOWEST)


def pytest_collection_finish() -> None:
    """What all modules have imported stays: it need not be searched for garbage again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """accelerate keeps its state, its precision too, for the process; no test starts with another's, or its locks."""
    forget_accelerator()
    yield
    forget_accelerator()
    release_locks()


def forget_accelerator() -> None:
    """Clear accelerate's state where a test has imported it."""
    if "accelerate.state" in sys.modules:
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


@pytest.fixture(autouse=True, scope="session")
def default_extractors_are_trained_once() -> Iterator[None]:
    """Of the same images, in this process: most runs train the small network of the default extractor first."""
    from clinsynth.models import image_encoders

    fit, kept = image_encoders.fit_image_classifier, dict[str, tuple[Any, dict[str, Any]]]()

    def fit_once(model: Any, train: Any, validation: Any, settings: Any) -> Any:
        arrays = train.images, train.labels, validation.images, validation.labels
        begun = image_encoders.hash_weights(model)
        key = image_encoders.hash_arrays(*arrays, begun, repr(replace(settings, progress=None)))
        if key not in kept:
            outcome = fit(model, train, validation, settings)
            kept[key] = outcome, {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(kept[key][1])
        return kept[key][0]

    with mock.patch.object(image_encoders, "fit_image_classifier", fit_once):
        yield


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data sets beside the repository; a test that needs it is skipped where it is absent."""
    path = REPOSITORY.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("needs the real data sets in ../shared/data, which are not here")
    return path
