"""What a fine-tuning learns from and is measured by: stories in JSON Lines, a corpus of works.

    data = read([Path("data/synthetic.jsonl"), Path("CORPUS")], {"seed": 1799, "held_out": 0.05,
                "groups": {"pushkin": ["pushkin"]}, "leave_out": []})

Several sources are joined. A line holds a ``text`` and what it must not be parted from, a ``theme``
or a ``work``: all lines of one theme train or none does. Of a corpus the works of
``ml/data/split.json`` are held out. Lines that say ``"good": false`` are answers nobody wants.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml import corpus, texts


@dataclass(frozen=True)
class Data:
    """Documents to learn from, to choose by and to report on; stories leave no test."""

    train: list[str]
    validation: list[str]
    test: list[str]

    @property
    def sha256(self) -> str:
        """The hash (hex) of all documents, part by part."""
        parts = ("\n\n".join(part) for part in (self.train, self.validation, self.test))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def read(
    sources: Sequence[Path], recipe: Mapping[str, Any], split: Path = corpus.SPLIT_FILE
) -> Data:
    """Read and join the sources, files of stories and corpus folders.

    ``recipe`` names the ``seed`` and the share ``held_out`` of the themes, and of a corpus the
    ``groups`` of authors and works to ``leave_out``. Raises CorpusError, naming file and line.
    """
    joined = Data([], [], [])
    for source in sources:
        if source.is_dir():
            works = texts.load(source, recipe["groups"], recipe["leave_out"], split)
            found = Data(works.everything(), works.validation, works.test)
        else:
            found = _read_stories(source, recipe["seed"], recipe["held_out"])
        joined = Data(
            joined.train + found.train,
            joined.validation + found.validation,
            joined.test + found.test,
        )
    names = ", ".join(map(str, sources)) or "no source of texts was named"
    if not joined.train:
        raise corpus.CorpusError(f"{names}: no texts to train on")
    if not joined.validation:
        raise corpus.CorpusError(
            f"{names}: nothing to validate on: more themes are needed, or a greater held_out"
        )
    return joined


def is_held_out(theme: str, seed: int, share: float) -> bool:
    """Say on which side a theme stands, by its hash: the same in every file and every run."""
    digest = hashlib.sha256(f"{seed} {theme}".encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def _read_stories(file: Path, seed: int, share: float) -> Data:
    """Read JSON Lines; raises CorpusError naming the file and the line that cannot be read."""
    data = Data([], [], [])
    for number, raw in enumerate(corpus.read_lines(file), 1):
        if not raw.strip():
            continue
        try:
            line = json.loads(raw)
            text = corpus.clean(line["text"])
            theme = str(line.get("theme") or line.get("work") or text)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise corpus.CorpusError(f"{file}, line {number}: no JSON with a text") from error
        if text and line.get("good", True):
            side = data.validation if is_held_out(theme, seed, share) else data.train
            side.append(text)
    if not data.train and not data.validation:
        raise corpus.CorpusError(f"{file}: no texts")
    return data
