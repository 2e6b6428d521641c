"""How often words, lemmas and tokens occur, on samples of equal size (the study of chapter 3).

    sample = draw_sample(texts, size=30_000, seed=1799)  # paragraphs, 30,000 words in all
    spectrum = measure(lemmas(sample), threshold=10)

A larger sample has more distinct words, and a smaller share of them is frequent, whatever its
author: only samples of one size can be compared. Corpora differ in whether they print ё, so words
are counted with е in its place; tokens are counted as the model reads them.
"""

import functools
import random
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pymorphy3  # type: ignore[import-untyped]

_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
POINTS = 300  # of a rank-frequency curve; more cannot be told apart on a plot


def words(texts: Iterable[str]) -> Iterator[str]:
    """Yield the words in lower case, ё as е: runs of letters, hyphens inside them kept."""
    for text in texts:
        for word in _WORD.findall(text):
            yield word.lower().replace("ё", "е")


def lemmas(texts: Iterable[str]) -> Iterator[str]:
    """Yield the dictionary form of each word, ё as е; a form outside the dictionary is guessed.

    The likeliest reading without regard to the neighbours, so «стали» is always one lemma.
    """
    return map(_lemma, words(texts))


@functools.cache
def _lemma(word: str) -> str:
    return str(_analyzer().parse(word)[0].normal_form).replace("ё", "е")


@functools.cache
def _analyzer() -> pymorphy3.MorphAnalyzer:
    return pymorphy3.MorphAnalyzer(lang="ru")


def count_words(texts: Iterable[str]) -> int:
    return sum(1 for _ in words(texts))


def draw_sample(texts: Iterable[str], size: int, seed: int) -> list[str]:
    """Return paragraphs drawn by a seeded shuffle that hold exactly ``size`` words.

    Whole paragraphs, but the last is cut behind the word that fills the sample.
    """
    paragraphs = [line for text in texts for line in text.split("\n") if line.strip()]
    random.Random(seed).shuffle(paragraphs)
    sample: list[str] = []
    missing = size
    for paragraph in paragraphs:
        ends = [match.end() for match in _WORD.finditer(paragraph)]
        if len(ends) >= missing:
            return [*sample, paragraph[: ends[missing - 1]]]
        sample.append(paragraph)
        missing -= len(ends)
    raise AssertionError(f"a sample of {size} words from texts of {size - missing}")


def measure(units: Iterable[Hashable], threshold: int) -> dict[str, Any]:
    """Return the figures of one sample and the points of its rank-frequency curve.

    ``frequent`` counts the distinct units that occur at least ``threshold`` times, and
    ``share_frequent`` is their share of the distinct ones (0 if there are none).
    """
    frequencies = sorted(Counter(units).values(), reverse=True)
    frequent = sum(frequency >= threshold for frequency in frequencies)
    return {
        "total": sum(frequencies),
        "distinct": len(frequencies),
        "frequent": frequent,
        "share_frequent": frequent / len(frequencies) if frequencies else 0.0,
        "rank_frequency": thin(frequencies),
    }


def thin(frequencies: Sequence[int], points: int = POINTS) -> list[tuple[int, int]]:
    """Return at most ``points`` pairs (rank from 1, frequency), the ranks spread evenly in log."""
    if not frequencies:
        return []
    ranks = np.unique(np.geomspace(1, len(frequencies), points).round().astype(int))
    return [(rank, frequencies[rank - 1]) for rank in ranks.tolist()]


def histogram(lengths: Iterable[int], edges: Sequence[int]) -> list[int]:
    """Count lengths by bin: ``edges[i] <= length < edges[i + 1]``, the last bin closed."""
    counts, _ = np.histogram(list(lengths), bins=list(edges))
    return [int(count) for count in counts]


def round_edges(largest: int, bins: int = 30) -> list[int]:
    """Return the edges of about ``bins`` bins from 0 past ``largest``, of a round width."""
    rough = max(1, largest) / bins
    power = 10 ** (len(str(int(rough))) - 1)
    width = next(step * power for step in (1, 2, 5, 10) if step * power >= rough)
    return list(range(0, largest + width + 1, width))


def cut_windows(lengths: Iterable[int], window: int) -> list[int]:
    """Return the lengths of the windows when every text begins a new one.

    What its last window lacks would be padding; ``ml.dataset.pack`` joins the texts instead.
    """
    pieces: list[int] = []
    for length in lengths:
        full, rest = divmod(length, window)
        pieces += [window] * full + [rest] * bool(rest)
    return pieces
