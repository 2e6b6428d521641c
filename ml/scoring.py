"""Measures one text: language, repetition, variety, ending, quotation, closeness to an author.

found = score(text, index=index, authors=authors)
Filters().failures(found)  # [] if a training set may hold it
summarise([found])  # the figures that judge a model's generations

The same figures filter the data set and judge generations. ``ml.quotation`` and ``ml.authors``
make the index and the authors from a corpus.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from statistics import fmean
from typing import Any

from ml.authors import AuthorModel
from ml.quotation import QuotationIndex

VARIETY_WINDOW = 100  # words
QUOTED_AT_MOST = 80  # characters: a longer verbatim run counts as quotation in ``summarise``

_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_ENDING = re.compile(r"[.!?…][»”\")]*$")
_CYRILLIC = re.compile(r"[а-яё]", re.IGNORECASE)
_COMMON = """а без бы был была было были быть в вам вас весь во вот все всё вы где да для до его ее
её если есть еще ещё же за и из или им их к как ко когда кто ли меня мне мой мы на над не него ней
нет ни но о об он она они от по под при с себя со так там то того тоже только тут ты у уже что чтоб
чтобы эта это этот я"""
_FUNCTION_WORDS = frozenset(_COMMON.split())


@dataclass(frozen=True)
class Score:
    """What one text measures; JSON by ``dataclasses.asdict``."""

    characters: int
    words: int
    cyrillic: float  # share of the letters; 0 without letters
    function_words: float  # share of the words that are common Russian function words
    repetition: float  # share of repeated 4-grams, see ``repetition``
    variety: float | None  # MATTR, see ``variety``; None for fewer words than its window
    ends: bool  # with the end of a sentence
    quoted: int  # characters of the longest run shared with the corpus (QuotationIndex.longest)
    delta: float  # Burrows's, to the target; at equal length only (AuthorModel.deltas)
    nearest: str  # the author of the smallest Delta
    author: str  # the classifier's
    attributed: bool  # whether that is the target
    probability: float  # the classifier's, of the target


def score(text: str, *, index: QuotationIndex, authors: AuthorModel) -> Score:
    """Measure one text; some 10 ms for 1,000 characters."""
    words = words_of(text)
    deltas = authors.deltas(text)
    [attribution] = authors.attribute([text])
    return Score(
        characters=len(text),
        words=len(words),
        cyrillic=cyrillic(text),
        function_words=sum(word in _FUNCTION_WORDS for word in words) / max(len(words), 1),
        repetition=repetition(words),
        variety=variety(words),
        ends=ends_sentence(text),
        quoted=index.longest(text),
        delta=deltas[authors.target],
        nearest=min(deltas, key=deltas.__getitem__),
        author=attribution.author,
        attributed=attribution.author == authors.target,
        probability=attribution.probabilities[authors.target],
    )


def words_of(text: str) -> list[str]:
    """Return the words in lower case, a hyphenated one as one."""
    return [word.lower() for word in _WORD.findall(text)]


def cyrillic(text: str) -> float:
    """Return the share of Cyrillic letters among letters, 0 if there are none."""
    letters = [character for character in text if character.isalpha()]
    return sum(bool(_CYRILLIC.match(letter)) for letter in letters) / max(len(letters), 1)


def repetition(words: Sequence[str], n: int = 4) -> float:
    """Return the share of repeated n-grams: 1 - distinct n-grams / all n-grams; 0 if none.

    >>> repetition("а б в г а б в г".split())  # 5 in all, 4 distinct
    0.2
    """
    grams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def variety(words: Sequence[str], window: int = VARIETY_WINDOW) -> float | None:
    """Return MATTR: the mean over all windows of the share of distinct words in a window.

    Unlike the share in the whole text it does not fall with length (M. Covington & J. McFall,
    "Cutting the Gordian knot: the moving-average type-token ratio", Journal of Quantitative
    Linguistics 17(2), 2010, 94-100). None for a text shorter than a window.
    """
    if len(words) < window:
        return None
    counts = Counter(words[:window])
    distinct = [len(counts)]
    for leaving, entering in zip(words, words[window:], strict=False):
        counts[entering] += 1
        counts[leaving] -= 1
        if not counts[leaving]:
            del counts[leaving]
        distinct.append(len(counts))
    return fmean(distinct) / window


def ends_sentence(text: str) -> bool:
    """Say whether the text ends with . ! ? or …, closing quotes and brackets after it allowed."""
    return bool(_ENDING.search(text.rstrip()))


def _threshold(value: float, reason: str) -> float:
    bound: float = field(default=value, metadata={"help": reason})
    return bound


@dataclass(frozen=True)
class Filters:
    """What a text must have to enter the data set; each field is one filter."""

    min_characters: float = _threshold(1000, "shorter texts are dropped")
    max_characters: float = _threshold(6000, "longer texts are dropped")
    min_cyrillic: float = _threshold(0.95, "share of the letters; less is another language")
    min_function_words: float = _threshold(0.15, "share of the words; less is no running Russian")
    max_repetition: float = _threshold(0.03, "share of repeated 4-grams of words")
    min_variety: float = _threshold(0.6, "MATTR of 100 words; no bound on a shorter text")
    min_ends: float = _threshold(1, "1: only texts that end with a sentence; 0: all")
    max_quoted: float = _threshold(QUOTED_AT_MOST, "characters shared with the corpus in one run")
    max_delta: float = _threshold(inf, "Burrows's Delta to the target")
    min_probability: float = _threshold(0, "the classifier's, of the target")

    def failures(self, found: Score) -> list[str]:
        """Return the names of the filters the text does not pass."""
        failed = []
        for name, bound in asdict(self).items():
            side, _, measure = name.partition("_")
            value = getattr(found, measure)
            if value is not None and (value < bound if side == "min" else value > bound):
                failed.append(name)
        return failed


def summarise(scores: Sequence[Score]) -> dict[str, Any]:
    """Return means and shares (0-1) over texts, in the words of the evaluation table.

    ``variety`` is the mean over the texts long enough for it, None if none is.
    """
    assert scores, "no text to summarise"
    varieties = [found.variety for found in scores if found.variety is not None]
    return {
        "texts": len(scores),
        "characters": fmean(found.characters for found in scores),
        "cyrillic": fmean(found.cyrillic for found in scores),
        "function_words": fmean(found.function_words for found in scores),
        "repetition": fmean(found.repetition for found in scores),
        "variety": fmean(varieties) if varieties else None,
        "ends": fmean(found.ends for found in scores),
        "unquoted": fmean(found.quoted <= QUOTED_AT_MOST for found in scores),
        "longest_quotation": max(found.quoted for found in scores),
        "delta": fmean(found.delta for found in scores),
        "attributed": fmean(found.attributed for found in scores),
        "probability": fmean(found.probability for found in scores),
    }
