"""`clinsynth inspect` of files that cannot be read: the message names the file and the mend."""

from pathlib import Path

import numpy as np
import pytest
from helpers import REPOSITORY

from clinsynth.images import to_picture, to_png
from clinsynth.scripts.inspect_sample import InspectArguments, main


@pytest.mark.parametrize("kind", ["png", "parquet"])
def test_a_truncated_file_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"cut.{kind}"
    whole = to_png(to_picture(np.zeros((1, 8, 8), np.uint8))) if kind == "png" else b"PAR1" + bytes(40)
    path.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match=rf"cut\.{kind} cannot be read \(.*copy it anew"):
        main(InspectArguments(file=str(path)))


def test_a_text_file_is_no_sample() -> None:
    with pytest.raises(ValueError, match=r"README\.md is neither a PNG nor a Parquet file"):
        main(InspectArguments(file=str(REPOSITORY / "README.md")))
