"""The texts a model learns from: reads a folder of works, cleans them, cuts them into chapters.

The folder holds one work a file and a table ``SOURCES.tsv`` with at least the columns
``file``, ``author``, ``title`` and ``genre``. Which works are held out is written down once, in
``ml/data/split.json``: whole works, never sentences of them.

    works = read_works(Path("corpus"))
    training = [w for w in works if split_of(w, load_split()) == "train"]
"""

import csv
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SPLIT_FILE = Path(__file__).parent / "data" / "split.json"
PROSE = frozenset({"prose", "nonfiction"})  # verse and drama would teach short lines

_CHAPTER_NUMBER = re.compile(
    r"(?:(?:глава|часть|том|книга|письмо|отделение)\s+[\w-]+|[IVXLC]{1,7}|\d{1,3})[.:]?",
    re.IGNORECASE,
)
_TYPOGRAPHY = str.maketrans(
    {"―": "—", "–": "—", "‑": "-", "“": "«", "”": "»", "„": "«", "\u00a0": " ", "\ufeff": ""}
)


class CorpusError(Exception):
    """A corpus folder that cannot be read: the message names the file and what is wrong."""


@dataclass(frozen=True)
class Work:
    """One work: ``file`` is its path inside the corpus folder, ``text`` is cleaned."""

    file: str
    author: str
    title: str
    genre: str
    text: str

    @property
    def folder(self) -> str:
        """The author's folder name, such as ``pushkin``."""
        return self.file.split("/")[0]


def clean(text: str) -> str:
    """Return the text with one paragraph a line, composed letters and uniform typography.

    Keeps ё, capitals, dashes, «», ellipses, foreign words and paragraphs.
    """
    text = re.sub(r"„([^„“”\n]*)[“”]", r"«\1»", text)  # here “ closes; elsewhere it opens
    text = unicodedata.normalize("NFC", text.translate(_TYPOGRAPHY))
    lines = (re.sub(r"[ \t\r\f\v]+", " ", line).strip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def read_works(folder: Path) -> list[Work]:
    """Read every work named in ``folder/SOURCES.tsv``, in the table's order.

    Raises CorpusError if the table or a text is missing, empty or not UTF-8.
    """
    table = folder / "SOURCES.tsv"
    if not table.is_file():
        raise CorpusError(f"{table}: not found; the folder needs this table of its works")
    works = []
    rows = _read(table).splitlines()
    for row in csv.DictReader(rows, delimiter="\t", quoting=csv.QUOTE_NONE):
        path = folder / row["file"]
        text = clean(_read(path))
        if not text:
            raise CorpusError(f"{path}: empty")
        works.append(Work(row["file"], row["author"], row["title"], row["genre"], text))
    if not works:
        raise CorpusError(f"{table}: names no work")
    return works


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}: {error}") from error


def chapters(work: Work) -> list[str]:
    """Cut a work at its numbered headings; the headings themselves are dropped."""
    parts: list[list[str]] = [[]]
    for line in work.text.split("\n"):
        if _CHAPTER_NUMBER.fullmatch(line):
            parts.append([])
        else:
            parts[-1].append(line)
    return ["\n".join(part) for part in parts if part]


def load_split(path: Path = SPLIT_FILE) -> dict[str, list[str]]:
    """Return ``{"validation": [...files], "test": [...files]}``; all other works train."""
    split: dict[str, list[str]] = json.loads(path.read_text("utf-8"))
    return split


def split_of(work: Work, split: dict[str, list[str]]) -> str:
    """Return ``"train"``, ``"validation"`` or ``"test"``."""
    return next((name for name, files in split.items() if work.file in files), "train")


def corpus_hash(works: Iterable[Work]) -> str:
    """Return the SHA-256 (hex) of the cleaned texts and their names, whatever their order."""
    digests = sorted(
        f"{work.file} {hashlib.sha256(work.text.encode()).hexdigest()}" for work in works
    )
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
