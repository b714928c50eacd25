"""Seeds: each random draw has its own, derived from what it is for, so that nothing depends on what ran before."""

import numpy as np


def derive_seed(seed: int, *path: int) -> int:
    """A seed in [0, 2**63) for the draw named by `path` under the user's `seed`; the same everywhere, always."""
    return int(np.random.SeedSequence([seed, *path]).generate_state(1, np.uint64)[0] >> np.uint64(1))
