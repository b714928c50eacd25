"""Canaries: made-up sentences planted in the train texts, and how much the synthetic texts give them away.

Exposure (Carlini et al. 2019, arXiv 1802.08232, section 4) ranks a planted canary among sentences of the same
making that were not planted. The model's likelihood is not at hand for a synthetic set, so a sentence is scored by the
longest run of its words that stands in a synthetic text, as in attacks on released synthetic texts (Meeus et al. 2025,
arXiv 2502.14921).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from clinsynth.metrics.records import Measurement, MeasurementSettings, empty_record, mean_interval
from clinsynth.metrics.texts.words import number_words, shared_words, words_of

EXPOSURE, EMITTED = "canary_exposure", "canaries_emitted"
WORDS_A_CANARY = 10
OPENINGS, ENDINGS = (
    "bo da fe gu ka li mo nu pa re si to va wi zu".split(),
    "ban dor fil gem kos lat mir nop ras tel".split(),
)


@dataclass(frozen=True)
class Canaries:
    """Sentences that were planted in the train texts, and `references` of the same making that were not."""

    planted: list[str]
    references: list[str]


def make_canaries(planted: int = 20, references: int = 1000, seed: int = 0) -> Canaries:
    """Different sentences of ten made-up words each."""
    generator = np.random.default_rng([seed, 9])
    words = [opening + ending for opening in OPENINGS for ending in ENDINGS]
    sentences: dict[str, None] = {}
    while len(sentences) < planted + references:
        sentences[" ".join(generator.choice(words, WORDS_A_CANARY))] = None
    drawn = list(sentences)
    return Canaries(drawn[:planted], drawn[planted:])


def measure_exposure(texts: list[str], canaries: Canaries, settings: MeasurementSettings) -> list[Measurement]:
    """Records "canary_exposure" (bits) and "canaries_emitted" (share of the planted ones that stand there whole).

    A planted canary has log2(references + 1) bits where no reference scores as high, and about 1 bit where scores say
    nothing; ties count half. The floor is the mean of the references, each ranked among the others. n_real: planted
    canaries; intervals are over these.

    Raises:
        ValueError: fewer than two references, or no planted canary.
    """
    if not canaries.planted or len(canaries.references) < 2:
        raise ValueError(
            f"canary exposure needs planted canaries and two references or more, got {len(canaries.planted)} and "
            f"{len(canaries.references)}; make_canaries makes both"
        )
    sentences, rows = number_words(*(map(words_of, side) for side in (canaries.planted + canaries.references, texts)))
    lengths = np.array([len(sentence) for sentence in sentences])
    scores = shared_words(sentences, rows)[0] / lengths
    planted, references = scores[: len(canaries.planted)], scores[len(canaries.planted) :]
    others = len(references)
    settings = replace(settings, extractor="words")
    floor = exposures(references, references, own=1).mean()
    values = {
        EXPOSURE: (exposures(planted, references), float(floor)),
        EMITTED: (planted == 1, float((references == 1).mean())),
    }
    records = []
    for metric, (found, known) in values.items():
        record = empty_record(metric, "overall", "canaries", (len(planted), len(texts)), 0, settings)
        note = f"{len(planted)} planted, {others} references, at most {np.log2(others + 1):.1f} bits"
        records.append(
            replace(record, value=float(found.mean()), interval=mean_interval(found, settings), floor=known, note=note)
        )
    return records


def exposures(scores: np.ndarray, references: np.ndarray, own: int = 0) -> np.ndarray:
    """Bits (n,) of each score among the references, `own` of which are the sentence itself."""
    above = (references > scores[:, None]).sum(1)
    equal = (references == scores[:, None]).sum(1) - own
    return np.log2(len(references) - own + 1) - np.log2(1 + above + equal / 2)
