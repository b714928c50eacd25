"""Texts that occur twice: near-duplicates by MinHash over pieces of five characters.

The likeness of two texts is the Jaccard similarity of their sets of pieces, case and blanks aside, which needs no word
boundaries and so serves any script. It is estimated from 128 permutations (Broder 1997), with a standard deviation of
at most 0.045; equal texts are always found.

At a threshold of 0.7, of 300 texts of 15 and more words from MTS-Dialog and from CounselChat it finds 80 % after one
word in ten is replaced, 98 % after every tenth is dropped, 78 % without their last quarter and 18 % after one word in
five is replaced. Among the different texts of the train splits it takes 7 of 1,068 and 0 of 693 for near-duplicates.
"""

from __future__ import annotations

from typing import Any

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

    plain = " ".join(text.split()).casefold()
    pieces = {plain[start : start + PIECE] for start in range(max(1, len(plain) - PIECE + 1))}
    own = MinHash(num_perm=PERMUTATIONS)
    own.update_batch([piece.encode() for piece in sorted(pieces)])
    return own
