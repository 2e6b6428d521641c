"""Near-duplicates: works that are in the corpus twice, passages that stand in two works.

MinHash signatures of word shingles (Broder 1997, On the resemblance and containment of
documents) in a locality-sensitive index, both from datasketch. Only real doubles count: a work
that another contains, a run of paragraphs of RUN characters or more. A shared quotation, an
epigraph, a formula of courtesy are shorter and stay.

index = DuplicateIndex()
twin = index.find_twin(paragraphs)              # the whole work, or None
repeats = index.find_repeats(name, paragraphs)  # runs of it, and remembers the rest
"""

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from datasketch import MinHash, MinHashLSH  # type: ignore[import-untyped]  # it has no types

SAME_WORK = 0.8  # share of a work's shingles: an edition with every 15th word changed has it
SAME_PARAGRAPH = 0.7  # Jaccard similarity
RUN = 1000  # characters
_CANDIDATE = 0.5  # Jaccard similarity from which works are compared
_SHINGLE = 3  # words
_WORDS = 15  # a shorter paragraph is too ordinary to be recognised
_BATCH = 4096  # shingles hashed at once: bounds the memory

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Twin:
    """The name of an earlier work, and the (estimated) share of this one that stands in it."""

    name: str
    share: float


@dataclass(frozen=True)
class Repeat:
    """Paragraphs ``start`` to ``end`` (not included) that stand in the work ``twin`` already."""

    start: int
    end: int
    twin: str
    characters: int


class DuplicateIndex:
    """Remembers the works it was shown; the first of two doubles is the one to keep."""

    def __init__(self) -> None:
        self._work = _empty_signature(128)
        self._paragraph = _empty_signature(32)
        self._works = MinHashLSH(threshold=_CANDIDATE, num_perm=128)
        self._paragraphs = MinHashLSH(threshold=SAME_PARAGRAPH, num_perm=32)
        self._signatures: dict[str, tuple[MinHash, int]] = {}
        self._paragraph_signatures: dict[tuple[str, int], MinHash] = {}

    def find_twin(self, name: str, paragraphs: Sequence[str]) -> Twin | None:
        """Return the earlier work that has this one in it; if there is none, remember this one.

        Of two works of sizes a and b with Jaccard similarity j, (a + b) j / (1 + j) is shared.
        """
        signature, size = self._work.copy(), 0
        shingles = iter(set(_shingles(paragraphs)))
        while batch := list(islice(shingles, _BATCH)):
            signature.update_batch(batch)
            size += len(batch)
        if not size:  # not a word in it
            return None
        twins = [Twin("", 0.0)]
        for earlier in map(str, self._works.query(signature)):
            other, other_size = self._signatures[earlier]
            similarity = signature.jaccard(other)
            shared = (size + other_size) * similarity / (1 + similarity)
            twins.append(Twin(earlier, min(1.0, shared / size)))
        nearest = max(twins, key=lambda twin: twin.share)
        if nearest.share >= SAME_WORK:
            return nearest
        self._signatures[name] = signature, size
        self._works.insert(name, signature)
        return None

    def find_repeats(self, name: str, paragraphs: Sequence[str]) -> list[Repeat]:
        """Return the runs that earlier works, or this one above, have; remember the rest."""
        twins = [self._find_paragraph(name, place, text) for place, text in enumerate(paragraphs)]
        runs: list[Repeat] = []
        start, end, current = 0, 0, ""
        for place, twin in enumerate([*twins, ""]):
            if twin is None:  # too short to tell: goes with its neighbours
                continue
            if twin != current:
                characters = sum(map(len, paragraphs[start:end]))
                if current and characters >= RUN:
                    runs.append(Repeat(start, end, current, characters))
                start, current = place, twin
            end = place + 1
        return runs

    def _find_paragraph(self, name: str, place: int, text: str) -> str | None:
        """Return the work that has this paragraph, "" if none has, None if it is too short."""
        if len(_WORD.findall(text)) < _WORDS:
            return None
        signature = self._paragraph.copy()
        signature.update_batch(list(_shingles([text])))
        for key in self._paragraphs.query(signature):
            if signature.jaccard(self._paragraph_signatures[key]) >= SAME_PARAGRAPH:
                return str(key[0])
        self._paragraph_signatures[name, place] = signature
        self._paragraphs.insert((name, place), signature)
        return ""


def _empty_signature(permutations: int) -> MinHash:
    return MinHash(num_perm=permutations, hashfunc=zlib.crc32, scheme="affine32")


def _shingles(paragraphs: Sequence[str]) -> Iterator[bytes]:
    """Yield each run of _SHINGLE words, without case, signs and the dots of ё."""
    window: list[str] = []
    for paragraph in paragraphs:
        for word in _WORD.findall(paragraph.lower().replace("ё", "е")):
            window.append(word)
            if len(window) == _SHINGLE:
                yield " ".join(window).encode()
                del window[0]
    if window:  # a text of fewer words is its own shingle
        yield " ".join(window).encode()
