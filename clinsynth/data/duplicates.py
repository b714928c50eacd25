"""Rows that occur twice: images of the same pixels, texts of the same words, and near-duplicates of both.

The likeness of two images is the correlation of their 28x28 grey thumbnails after three steps: a band-pass (Gaussian
of 0.7 minus Gaussian of 3 thumbnail pixels), which leaves out overall brightness and illumination; unit variance; and
subtraction of the data set's mean thumbnail, which all fundus or chest images share.

The threshold of 0.97 was set on 300 images each of RetinaMNIST (28 px), PneumoniaMNIST (28 px) and HAM10000
(128 px): it found all copies saved as JPEG of quality 75 or with brightness changed by 15 %, at least nine in ten with
contrast raised by 20 %, seven in ten with gamma 0.8, and at 128 px nearly all moved by one pixel. At 28 px it misses
most copies that were moved, cropped or saved as JPEG of quality 40. Unrelated images stay below 0.94 on
PneumoniaMNIST and 0.97 on HAM10000; of the 36 pairs above it on RetinaMNIST 32 have the same label, as have all 27
above 0.98.

The likeness of two texts is the share of their pieces of five characters that they have in common.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

NEAR_THRESHOLD = 0.97
SIDE = 28
BAND = (0.7, 3.0)  # standard deviations of the two Gaussians, in thumbnail pixels
MEAN_PRIOR = 20  # images' worth of a zero mean: in a tiny set the mean would be the images themselves
BLOCK = 1024


def text_digest(text: str) -> str:
    """The same for texts that differ in case and blanks alone."""
    return hashlib.sha256(plain_text(text).encode()).hexdigest()


def text_keys(texts: Iterable[str]) -> np.ndarray:
    """The first 8 bytes of the digests of texts, uint64 (n,), in the order of these: two of a million texts have the
    same by chance in 3 of 100 million sets."""
    whole = (hashlib.sha256(plain_text(text).encode()).digest() for text in texts)
    return np.fromiter((int.from_bytes(digest[:8], "big") for digest in whole), dtype=np.uint64)


def plain_text(text: str) -> str:
    """A text without what case and blanks tell."""
    return " ".join(text.split()).casefold()


def fingerprint(image: Image.Image, grey: Image.Image) -> tuple[str, np.ndarray]:
    """A digest of a decoded image's pixels, and a thumbnail of it in 8 bits, uint8 (28, 28)."""
    digest = hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()
    return digest, np.asarray(grey.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))


def exact_pairs(digests: np.ndarray) -> list[tuple[int, int]]:
    """(first, later) for every row whose digest, of (n,), occurred before."""
    _, first, whose = np.unique(digests, return_index=True, return_inverse=True)
    later = np.flatnonzero(first[whose] != np.arange(len(digests)))
    return list(zip(first[whose[later]].tolist(), later.tolist(), strict=True))


def near_pairs(thumbnails: np.ndarray) -> Iterator[tuple[int, int, float]]:
    """Yield (i, j, likeness) with i < j for all pairs at or above NEAR_THRESHOLD; the number of comparisons is n²/2.

    Thumbnails: float, (n, side, side). Images without any structure match nothing.
    """
    features = likeness_rows(np.asarray(thumbnails, dtype=np.float32))
    for start in range(0, len(features), BLOCK):
        for other in range(start, len(features), BLOCK):
            likeness = features[start : start + BLOCK] @ features[other : other + BLOCK].T
            for i, j in np.argwhere(likeness >= NEAR_THRESHOLD).tolist():
                if start + i < other + j:
                    yield start + i, other + j, float(likeness[i, j])


def likeness_rows(thumbnails: np.ndarray) -> np.ndarray:
    """Rows of unit length, float32 (n, side * side), whose products are the likeness."""
    features = band_passed(thumbnails)
    return unit_rows(features - features.sum(0) / (len(features) + MEAN_PRIOR))


def band_passed(thumbnails: np.ndarray) -> np.ndarray:
    """Rows of unit length, float32 (n, side * side), of thumbnails (n, side, side)."""
    fine, coarse = (gaussian_filter(thumbnails, (0, sigma, sigma)) for sigma in BAND)
    return unit_rows((fine - coarse).reshape(len(thumbnails), -1))


def unit_rows(rows: np.ndarray) -> np.ndarray:
    rows = rows - rows.mean(1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 1e-3)


NEAR_MOST = 5000
"""Images among which every command looks for near-duplicates; among more for equal ones alone."""
LARGEST_CHAIN = 0.05
"""Share of the images that near-duplicates of near-duplicates may join: beyond, likeness tells nothing of this set."""


def alike_rows(digests: np.ndarray, thumbnails: np.ndarray | None) -> np.ndarray:
    """Numbers (n,) of groups of equal and near-equal images, from their digests (n,) and thumbnails (n, 28, 28), or of
    equal ones alone."""
    _, groups = np.unique(digests, return_inverse=True)
    pairs = [] if thumbnails is None else [(i, j) for i, j, _ in near_pairs(thumbnails)]
    if not pairs:
        return groups
    ends = groups[np.array(pairs)]
    edges = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(groups.max() + 1,) * 2)
    chains = connected_components(edges, directed=False)[1][groups]
    return groups if np.bincount(chains).max() > max(20, LARGEST_CHAIN * len(chains)) else chains


PIECE = 5
PERMUTATIONS = 128
MARGIN = 0.15
"""How far below the threshold the index looks for candidates, so that few at the threshold are missed."""


class NearDuplicates:
    """A growing set of texts that tells whether another is a near-duplicate of one of them.

    Args:
        threshold: least likeness of a near-duplicate, in (0, 1]; 1 takes only texts of equal pieces.

    Raises:
        ImportError: datasketch is not installed; says how to.
    """

    def __init__(self, threshold: float):
        try:
            from datasketch import MinHashLSH
        except ImportError as error:
            raise ImportError(f"near-duplicates need datasketch ({error}); pip install clinsynth[text]") from error
        self.threshold = threshold
        self.index: Any = MinHashLSH(threshold=max(0.05, min(threshold, 0.95) - MARGIN), num_perm=PERMUTATIONS)
        self.hashes: list[Any] = []

    def __contains__(self, text: str) -> bool:
        own = signature(text)
        return any(own.jaccard(self.hashes[number]) >= self.threshold for number in self.index.query(own))

    def add(self, text: str) -> None:
        """Remember `text`."""
        own = signature(text)
        self.index.insert(len(self.hashes), own)
        self.hashes.append(own)


def signature(text: str) -> Any:
    """The MinHash of a text's pieces."""
    from datasketch import MinHash

    plain = plain_text(text)
    pieces = {plain[start : start + PIECE] for start in range(max(1, len(plain) - PIECE + 1))}
    own = MinHash(num_perm=PERMUTATIONS)
    own.update_batch([piece.encode() for piece in sorted(pieces)])
    return own
