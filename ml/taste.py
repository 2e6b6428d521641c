"""A scripted reader for trying the whole loop: he likes short sentences and no repetition.

strain(text)  # the lower, the better he likes it
vote(strains, noise=0.1, seed=1)
"""

import random
import re
from collections.abc import Sequence
from statistics import median

from ml.scoring import repetition, words_of

_SENTENCE_END = re.compile(r"[.!?…]+")
_REPETITION = 40.0  # words a sentence that a text of nothing but repetition costs


def sentence_length(text: str) -> float:
    """Return words a sentence."""
    words = len(words_of(text))
    sentences = sum(bool(words_of(part)) for part in _SENTENCE_END.split(text))
    return words / max(sentences, 1)


def strain(text: str) -> float:
    """Return how much the text tires him: words a sentence, and a fine for repeated 4-grams."""
    return sentence_length(text) + _REPETITION * repetition(words_of(text))


def vote(strains: Sequence[float], *, noise: float, seed: int) -> list[bool]:
    """Return a like for every text below the median; a share of the votes are slips."""
    dice, middle = random.Random(seed), median(strains)
    return [(value < middle) != (dice.random() < noise) for value in strains]
