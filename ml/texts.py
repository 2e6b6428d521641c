"""The documents of an experiment: a corpus's prose by groups, and its held-out works.

    texts = load(Path("data/corpus"), {"pushkin": ["pushkin"]}, leave_out=[])
    texts.train["pushkin"], texts.validation, texts.test  # lists of chapters

Every experiment draws from here, so that every figure is of the same held-out works.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml import corpus


@dataclass(frozen=True)
class Texts:
    """Chapters to learn from, by group, and to measure on; ``sha256`` is the hash of them all."""

    train: dict[str, list[str]]
    validation: list[str]
    test: list[str]
    split: dict[str, list[str]]
    sha256: str

    def everything(self) -> list[str]:
        """The chapters of all training groups, in their order."""
        return [text for group in self.train.values() for text in group]


def load(
    folder: Path,
    groups: Mapping[str, Sequence[str]],
    leave_out: Sequence[str] = (),
    split_file: Path = corpus.SPLIT_FILE,
) -> Texts:
    """Read the prose of the authors' folders that ``groups`` names; others are left out.

    Raises CorpusError if the folder is none, or holds no text for a group or a held-out part, or
    if the split cannot be read.
    """
    split = read_json(split_file)
    owner = {author: name for name, authors in groups.items() for author in authors}
    parts: dict[str, list[str]] = {name: [] for name in groups}
    held_out: dict[str, list[str]] = {"validation": [], "test": []}
    works = [
        work
        for work in corpus.read_works(folder)
        if work.genre in corpus.PROSE and work.file not in leave_out
    ]
    for work in works:
        part = corpus.split_of(work, split)
        if part != "train":
            held_out[part] += corpus.chapters(work)
        elif work.folder in owner:
            parts[owner[work.folder]] += corpus.chapters(work)
    empty = [name for name, texts in {**parts, **held_out}.items() if not texts]
    if empty:
        raise corpus.CorpusError(f"{folder}: no prose for {', '.join(empty)}")
    return Texts(parts, held_out["validation"], held_out["test"], split, corpus.corpus_hash(works))


def read_json(file: Path) -> Any:
    """Return what a JSON file holds: a split, a recipe; raises CorpusError naming the file."""
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise corpus.CorpusError(f"{file}: {getattr(error, 'strerror', error)}") from error


def read_stories(file: Path) -> list[str]:
    """Return the cleaned ``text`` of every line of a JSON Lines file.

    Raises CorpusError naming the file and the line that cannot be read.
    """
    stories = []
    try:
        text = file.read_text("utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise corpus.CorpusError(f"{file}: {error}") from error
    if not text:
        raise corpus.CorpusError(f"{file}: no texts")
    for number, line in enumerate(text.split("\n"), 1):
        try:
            stories.append(corpus.clean(str(json.loads(line)["text"])))
        except (ValueError, KeyError, TypeError) as error:
            raise corpus.CorpusError(f"{file}, line {number}: no JSON with a text") from error
    return stories
