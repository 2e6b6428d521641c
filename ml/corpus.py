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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ml.cleaning import clean_lines

COLUMNS = ("file", "author", "title", "genre")
SPLIT_FILE = Path(__file__).parent / "data" / "split.json"
PROSE = frozenset({"prose", "nonfiction"})  # verse and drama would teach short lines

_CHAPTER_NUMBER = re.compile(
    r"(?:(?:глава|часть|том|книга|письмо|отделение)\s+[\w-]+|[IVXLC]{1,7}|\d{1,3})[.:]?",
    re.IGNORECASE,
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
    """Return the text with one paragraph a line, uniform typography and no editor's additions.

    Keeps ё, capitals, dashes, «», ellipses, foreign words and paragraphs; see ml.cleaning.
    """
    return "\n".join(clean_lines(text.split("\n")))


def read_works(folder: Path) -> list[Work]:
    """Read every work named in ``folder/SOURCES.tsv``, in the table's order.

    Raises CorpusError if the table or a text is missing, empty, binary or not UTF-8.
    """
    return [read_work(folder, row) for row in read_table(folder)]


def read_work(folder: Path, row: Mapping[str, str]) -> Work:
    """Read and clean the work of one row; raises CorpusError like ``read_works``."""
    path = folder / row["file"]
    text = "\n".join(clean_lines(read_lines(path)))
    if not text:
        raise CorpusError(f"{path}: empty")
    return Work(row["file"], row["author"], row["title"], row["genre"], text)


def read_table(folder: Path) -> list[dict[str, str]]:
    """Return the rows of ``folder/SOURCES.tsv``; raises CorpusError if there are none."""
    table = folder / "SOURCES.tsv"
    if not table.is_file():
        raise CorpusError(f"{table}: not found; python -m scripts.build_corpus writes this table")
    lines = (line for line in read_lines(table) if line.strip())
    reader = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    rows = list(reader)
    for column in COLUMNS:
        if rows and column not in rows[0]:
            raise CorpusError(f"{table}: has no column {column!r}")
    named: set[Path] = set()
    for number, row in enumerate(rows, 1):
        if not all(row[column] for column in COLUMNS):
            raise CorpusError(f"{table}: row {number} lacks one of {', '.join(COLUMNS)}")
        path = (folder / row["file"]).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise CorpusError(f"{table}: row {number} leads out of the folder: {row['file']}")
        if path in named:
            raise CorpusError(f"{table}: row {number} names {row['file']} again")
        named.add(path)
    if not rows:
        raise CorpusError(f"{table}: names no work")
    return rows


def read_lines(path: Path) -> Iterator[str]:
    """Yield a text file's lines without their ends, one in memory at a time.

    Raises CorpusError naming the file, and the byte where it ceases to be UTF-8 text.
    """
    offset = 0
    try:
        with path.open("rb") as file:
            for raw in file:
                if b"\0" in raw:
                    place = f"byte {offset + raw.index(0)}"
                    raise CorpusError(
                        f"{path}: {place} is zero: a binary file, or UTF-16; utf-8 text is needed"
                    )
                text = raw.decode("utf-8").rstrip("\r\n")
                yield from (text if offset else text.removeprefix("\ufeff")).split("\r")
                offset += len(raw)
    except UnicodeDecodeError as error:
        place = f"byte {offset + error.start} ({error.object[error.start]:#04x})"
        raise CorpusError(
            f"{path}: not utf-8 at {place}; re-encode it: iconv -f ITS_ENCODING -t utf-8"
        ) from error
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror}") from error


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
    """Return ``{"validation": [...files], "test": [...files]}``; all other works train.

    Raises CorpusError if the file is missing or says anything else.
    """
    try:
        split: dict[str, list[str]] = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror}") from error
    except ValueError as error:  # no JSON, or not UTF-8
        raise CorpusError(f"{path}: not a split of works ({error})") from error
    if not isinstance(split, dict) or any(not isinstance(files, list) for files in split.values()):
        raise CorpusError(f"{path}: not a split of works, an object with lists of files")
    return split


def split_of(work: Work, split: dict[str, list[str]]) -> str:
    """Return ``"train"``, ``"validation"`` or ``"test"``."""
    return next((name for name, files in split.items() if work.file in files), "train")


def corpus_hash(works: Iterable[Work]) -> str:
    """Return the SHA-256 (hex) of the cleaned texts and their names, whatever their order."""
    return hash_digests({work.file: text_digest(work.text) for work in works})


def text_digest(text: str) -> str:
    """Return the SHA-256 (hex) of one cleaned text."""
    return hashlib.sha256(text.encode()).hexdigest()


def hash_digests(digests: Mapping[str, str]) -> str:
    """Return the corpus's hash from ``{file: text_digest(text)}``."""
    lines = sorted(f"{file} {digest}" for file, digest in digests.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
