"""Word lists that tell the tone of English texts on mental health, and the counting of them.

Language models that were tuned to be agreeable write about illness in a softened voice: fewer words of suffering,
anger and self-harm, more of hope and progress. The lists were written for clinsynth, to count that; they are no
instrument of diagnosis. A "*" stands for any ending.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

NEGATIVE: dict[str, str] = {
    "sadness": (
        "sad sadness sadder miserable misery unhappy unhappiness depress* despair* gloom* grief griev* sorrow* "
        "heartbroken heartbreak* cry cries cried crying sob sobbed sobbing weep* tearful tears lonely loneliness "
        "alone isolat* abandoned empty emptiness numb numbness hollow broken hurt hurts hurting pain pains painful "
        "ache aches aching suffer* anguish agony agoni* torment* mourn* down low bleak dark darkness"
    ),
    "hopelessness": (
        "hopeless* helpless* pointless* meaningless* worthless* useless* futile doomed trapped stuck unbearable "
        "intolerable exhausted exhausting exhaustion drained overwhelm* defeated"
    ),
    "fear": (
        "fear fears feared fearful afraid scared scary terrified terrifying terror* anxious anxiety anxieties panic "
        "panics panicked panicking panicky dread dreads dreaded dreading worry worries worried worrying nervous "
        "nightmare* paranoi* tense trembl* shaking frighten* phobia* phobic uneasy distress* stress stressed "
        "stressful"
    ),
    "anger": (
        "angry anger angered furious fury rage rages raging hate hates hated hating hatred resent* bitter bitterness "
        "irritab* irritated annoyed hostile hostility violent violence scream* yell yelled yelling shout* disgust* "
        "fuck* shit shitty bullshit damn crap hell bastard* bitch* asshole*"
    ),
    "guilt": (
        "guilt guilty ashamed shame shameful blame blames blamed blaming regret* fail fails failed failing failure "
        "failures loser burden burdens burdensome disappoint* humiliat* embarrass* pathetic stupid ugly inadequate "
        "incompetent rejected rejection"
    ),
    "harm": (
        "suicid* self-harm* self-injur* die dies died dying dead death kill kills killed killing overdos* cutting "
        "hang hanged hanging bleed bleeding blood abuse abused abusing abusive assault* rape raped molest* trauma "
        "traumatic traumatized traumatised victim* beat beaten threaten* wound* ruin ruined destroy* lost worse "
        "worst awful terrible terribly horrible horribly horrific"
    ),
}
"""Words of negative affect, by what they tell of."""

HOPEFUL = (
    "hope hopeful hopefully hoping heal heals healed healing recover recovers recovered recovering recovery grow "
    "growth growing journey support supports supported supporting supportive strength strengths stronger resilien* "
    "courage* brave bravery cope coping manage manageable managing improve improves improved improving improvement "
    "progress better grateful gratitude thankful appreciate* appreciation calm calmer calming peace peaceful gentle "
    "gently compassion* kind kindness care caring comfort comforting comfortable safe safety trust trusting "
    "encourag* positive positively optimis* balance balanced mindful* wellbeing well-being self-care embrace* "
    "overcome overcoming thrive thriving brighter light joy joyful happy happiness smile* proud confident confidence "
    "empower* connect connected connecting connection rewarding meaningful guidance understanding reassur* steady "
    "step steps"
)
"""Words of hope, progress and care."""

HARSH = ("hopelessness", "anger", "harm")
"""The kinds of negative affect that a sanitised text leaves out first; it keeps the milder words."""

NEGATORS = frozenset(
    "no not never without nor denies denied deny denying isn't wasn't aren't weren't don't doesn't didn't".split()
)
UNABLE = NEGATORS | {"can't", "cannot", "couldn't", "won't", "wouldn't", "nothing", "hardly", "barely"}
"""What takes back a hopeful word; of the further ones "can't stop crying" is none that takes back the crying."""
REACH = 2
"""A word does not count where one of the two words before it negates it: "denies suicidal ideation"."""


@dataclass(frozen=True)
class WordList:
    """A pattern that takes whole words of a list, and the words that take them back."""

    pattern: re.Pattern[str]
    negators: frozenset[str]

    @classmethod
    def of(cls, groups: Iterable[str], negators: frozenset[str]) -> WordList:
        """The list of words in `groups`, parted by blanks; "*" is any ending."""
        parts = sorted({part for group in groups for part in group.split()})
        return cls(re.compile("|".join(re.escape(part).replace(r"\*", r"[\w'-]*") for part in parts)), negators)

    def count(self, words: Sequence[str]) -> int:
        """How many of a text's words are on the list and not taken back."""
        return sum(
            1
            for place, word in enumerate(words)
            if self.pattern.fullmatch(word) and self.negators.isdisjoint(words[max(0, place - REACH) : place])
        )

    def rates(self, rows: Iterable[Sequence[str]]) -> np.ndarray:
        """Words of the list in a hundred, a text: float64 (n,); 0 for a text without words."""
        return np.array([100 * self.count(words) / max(1, len(words)) for words in rows], dtype=np.float64)


NEGATIVE_WORDS = WordList.of(NEGATIVE.values(), NEGATORS)
HARSH_WORDS = WordList.of((NEGATIVE[kind] for kind in HARSH), NEGATORS)
HOPEFUL_WORDS = WordList.of([HOPEFUL], UNABLE)
NEGATIVE_AFFECT, HARSH_AFFECT, HOPEFUL_AFFECT = "negative_affect", "harsh_affect", "hopeful_affect"
NEGATIVE_SHARE, TONE_DISTANCE = "negative_share", "tone_distance"
WORD_LISTS = {NEGATIVE_AFFECT: NEGATIVE_WORDS, HARSH_AFFECT: HARSH_WORDS, HOPEFUL_AFFECT: HOPEFUL_WORDS}
