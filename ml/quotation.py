"""Finds what a text quotes: its longest verbatim run of characters in a large collection.

index = QuotationIndex.build(work.text for work in works)
index.longest(story)  # characters

Every STEP-th window of WINDOW characters of the collection stands in a sorted table of hashes. A
common run of at least EXACT = WINDOW + STEP - 1 characters holds one of those windows whole, so a
query that looks all its windows up and extends each hit letter by letter finds it.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ml.corpus import CorpusError

WINDOW = 24  # characters of a hashed window; a run below it is reported as 0
STEP = 17
EXACT = WINDOW + STEP - 1  # 40: from this length on the answer is exact
_BASE = 0x9E3779B97F4A7C15  # odd: no power of it vanishes modulo 2**64
_BETWEEN_TEXTS, _OUTSIDE_QUERY = "\n", "\0"  # neither occurs inside a normalised text

_UNIFORM = str.maketrans(
    {"ё": "е", "Ё": "Е", "…": "...", "\0": " "}
    | dict.fromkeys("«»“”„‟", '"')
    | dict.fromkeys("–—―", "-")
)


def uniform(text: str) -> str:
    """Return the text without what depends on the edition: ё, the shape of quotes and dashes,
    dots, paragraphs and spaces."""
    return " ".join(re.sub(r"\.{2,}", "...", text.translate(_UNIFORM)).split())


@dataclass(frozen=True)
class QuotationIndex:
    """``codes`` are the collection's characters (uint16), ``hashes`` (sorted) and ``places``
    its windows."""

    codes: NDArray[np.uint16]
    hashes: NDArray[np.uint64]
    places: NDArray[np.uint32]

    @classmethod
    def build(cls, texts: Iterable[str]) -> "QuotationIndex":
        """Index a collection: some 3 bytes a character, a second for 10 million."""
        parts = [_codes(_BETWEEN_TEXTS)]
        for text in texts:
            parts += [_codes(uniform(text)), _codes(_BETWEEN_TEXTS)]
        codes = np.concatenate(parts)
        assert len(codes) < 2**32, len(codes)
        hashes = _hashes(codes, STEP)
        order = np.argsort(hashes)
        return cls(codes, hashes[order], (order * STEP).astype(np.uint32))

    def longest(self, text: str) -> int:
        """Return the length in characters of the longest run that text and collection share.

        Both are compared without what ``uniform`` removes. Exact from EXACT characters on. Below
        that it is a lower bound: the longest run found, 0 if none of the windows was met.
        """
        inside = _codes(uniform(text))
        if len(inside) < WINDOW:
            return 0
        wanted = _hashes(inside, 1)
        first = np.searchsorted(self.hashes, wanted, "left")
        counts = np.searchsorted(self.hashes, wanted, "right") - first
        starts = np.repeat(np.arange(len(wanted)), counts)
        within = np.arange(len(starts)) - np.repeat(np.cumsum(counts) - counts, counts)
        places = self.places[np.repeat(first, counts) + within].astype(np.int64)
        query = np.concatenate([_codes(_OUTSIDE_QUERY), inside, _codes(_OUTSIDE_QUERY)])
        starts += 1
        # Equal hashes prove nothing: the run is counted from the window's first letter.
        ahead = self._common(query, starts, places, 1)
        behind = self._common(query, starts - 1, places - 1, -1)
        runs = (ahead + behind)[ahead >= WINDOW]
        return int(runs.max(initial=0))

    def _common(
        self,
        query: NDArray[np.uint16],
        starts: NDArray[np.int64],
        places: NDArray[np.int64],
        direction: int,
    ) -> NDArray[np.int64]:
        """Return how many letters agree from each pair of positions on, in one direction."""
        lengths = np.zeros(len(starts), np.int64)
        alive = np.arange(len(starts))
        while len(alive):
            shift = direction * lengths[alive]
            same = query[starts[alive] + shift] == self.codes[places[alive] + shift]
            alive = alive[same]
            lengths[alive] += 1
        return lengths

    def save(self, path: Path) -> None:
        save_arrays(path, codes=self.codes, hashes=self.hashes, places=self.places)

    @classmethod
    def load(cls, path: Path) -> "QuotationIndex":
        """Read what ``save`` wrote. Raises OSError, or CorpusError if the file is another."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return cls(arrays["codes"], arrays["hashes"], arrays["places"])
        except (ValueError, EOFError, LookupError, BadZipFile, TypeError) as error:
            raise CorpusError(f"{path}: not a saved index of quotations ({error})") from error


def save_arrays(path: Path, **arrays: NDArray[Any]) -> None:
    """Write an .npz whole or not at all: a full disk leaves the old one untouched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _codes(text: str) -> NDArray[np.uint16]:
    # A character outside the basic plane becomes two, which lengthens a run with emoji.
    return np.frombuffer(text.encode("utf-16-le", "surrogatepass"), "<u2")


def _hashes(codes: NDArray[np.uint16], step: int) -> NDArray[np.uint64]:
    """Return the polynomial hash modulo 2**64 of every step-th window."""
    count = max(0, (len(codes) - WINDOW) // step + 1)
    hashes = np.zeros(count, np.uint64)
    for place in range(WINDOW):
        hashes *= np.uint64(_BASE)
        hashes += codes[place : place + (count - 1) * step + 1 : step] if count else 0
    return hashes
