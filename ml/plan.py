"""What a retraining begins with, the same for its every attempt: parent, recipe, votes.

    save(Plan(parent, recipe, minimum=40, votes=votes), work)
    load(work)  # None if nothing was begun there

The file names readers by their ids, so that a withdrawn consent is found. It is deleted when the
retraining is over; nothing of it is handed out.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ml import votes
from ml.results import write_text
from ml.votes import Vote

_FILE = "plan.json"
KEPT = {"loss.png", "before.json", "after.json"}  # what may stay of a work folder


@dataclass(frozen=True)
class Parent:
    """The version that answers readers when a retraining begins."""

    id: int
    name: str
    version: str
    folder: str | None  # None: what a worker was started with
    prompt_tokens: int
    prompt_characters: int


@dataclass(frozen=True)
class Plan:
    """``recipe`` is the JSON of a CandidateConfig, ``minimum`` counts likes, and dislikes."""

    parent: Parent
    recipe: str
    minimum: int
    votes: tuple[Vote, ...]

    def voters(self) -> set[tuple[int, int]]:
        """Return who voted on what, as ids of generation and reader."""
        return {(vote.generation_id, vote.user_id) for vote in self.votes}


def save(plan: Plan, work: Path) -> None:
    """Write the plan whole or not at all; the disk may be full: OSError."""
    kept: dict[str, Any] = {**asdict(plan), "votes": votes.as_json(plan.votes)}
    write_text(work / _FILE, json.dumps(kept, ensure_ascii=False) + "\n")


def load(work: Path) -> Plan | None:
    """Read what ``save`` wrote."""
    try:
        kept = json.loads((work / _FILE).read_text("utf-8"))
    except FileNotFoundError:
        return None
    kept["parent"] = Parent(**kept["parent"])
    return Plan(**{**kept, "votes": tuple(votes.from_json(kept["votes"]))})


def tidy(folders: Iterable[Path]) -> None:
    """Delete what the work folders of retrainings that are over need not keep."""
    for folder in folders:
        for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder before it
            if path.is_dir():
                path.rmdir()
            elif path.parent != folder or path.name not in KEPT:
                path.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()
