"""Readers' votes as data to learn from: which of them count, in the shapes that TRL reads.

    votes = [vote(**vars(row)) for row in rows]   # rows of db.queries.rated
    chosen = select(votes, cap=200, minimum=20)
    train, held_out = split(chosen.votes, share_held_out=0.2, seed=1799)
    unpaired(train), pairs(train), report(chosen)

Rows and reports are without their readers' ids; only ``as_json`` has them.
"""

import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from ml.duplicates import DuplicateIndex

CAP = 200  # votes of one reader: no taste of a single man

Row = dict[str, Any]


class VotesError(Exception):
    """Too few votes to learn from: ``missing`` says how many more are wanted."""

    def __init__(self, message: str, missing: int) -> None:
        super().__init__(message)
        self.missing = missing


@dataclass(frozen=True)
class Vote:
    """A reader's verdict on a completion; ``created_at`` is when he last cast it."""

    prompt: str  # all that stood before, as the model saw it
    completion: str
    liked: bool
    user_id: int
    consent: bool | None  # only True lets it train a model
    generation_id: int
    version: str  # of the model that wrote it
    created_at: datetime


@dataclass(frozen=True)
class Selection:
    """The votes that count, newest first, and how many were dropped for which reason."""

    votes: tuple[Vote, ...]
    dropped: Mapping[str, int]
    agreement: float | None  # see ``report``


def vote(
    *,
    generation_id: int,
    prompt: str,
    context: str,
    text: str,
    value: int,
    user_id: int,
    consent: bool | None,
    version: str,
    created_at: datetime,
) -> Vote:
    """Return a row of the database as a vote; context and opening joined as the engine does."""
    return Vote(
        prompt=" ".join(filter(None, (context, prompt))),
        completion=text,
        liked=value > 0,
        user_id=user_id,
        consent=consent,
        generation_id=generation_id,
        version=version,
        created_at=created_at,
    )


def select(votes: Sequence[Vote], *, cap: int = CAP, minimum: int = 1) -> Selection:
    """Return the votes that count; raises VotesError unless ``minimum`` of each kind are left.

    Dropped are the votes without their reader's ``consent``, all but the newest on the same text or
    near-duplicates (``duplicate``), all of them if the verdicts differ (``disputed``), and a
    reader's votes beyond his newest ``cap``.
    """
    allowed = [vote for vote in votes if vote.consent]
    dropped = Counter(consent=len(votes) - len(allowed), duplicate=0, disputed=0, cap=0)
    groups = _same_texts(allowed)
    kept, of_user = [], Counter[int]()
    for group in groups:
        newest = group[0]
        if len({vote.liked for vote in group}) > 1:
            dropped["disputed"] += len(group)
            continue
        dropped["duplicate"] += len(group) - 1
        of_user[newest.user_id] += 1
        if of_user[newest.user_id] > cap:
            dropped["cap"] += 1
        else:
            kept.append(newest)
    likes = sum(vote.liked for vote in kept)
    dislikes = len(kept) - likes
    if missing := max(0, minimum - likes) + max(0, minimum - dislikes):
        raise VotesError(
            f"too few votes to learn from: {likes} likes and {dislikes} dislikes count, "
            f"{minimum} of each are wanted, {missing} are missing",
            missing,
        )
    return Selection(tuple(kept), dict(dropped), _agreement(groups))


def unpaired(votes: Sequence[Vote]) -> list[Row]:
    """Return ``prompt``, ``completion``, ``label``, ``weight`` of each vote.

    The weights are 1 on average, and those of the likes sum to the same as those of the dislikes.
    """
    sides = Counter(vote.liked for vote in votes)
    return [
        {
            "prompt": vote.prompt,
            "completion": vote.completion,
            "label": vote.liked,
            "weight": len(votes) / (len(sides) * sides[vote.liked]),
        }
        for vote in votes
    ]


def pairs(votes: Sequence[Vote]) -> list[Row]:
    """Return ``prompt``, ``chosen``, ``rejected``: liked against disliked of the same prompt.

    A text stands in one pair at most, so that an opening that many tried does not outweigh all.
    """
    by_prompt: dict[str, dict[bool, list[str]]] = defaultdict(lambda: {True: [], False: []})
    for vote in votes:
        by_prompt[vote.prompt][vote.liked].append(vote.completion)
    return [
        {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        for prompt, texts in by_prompt.items()
        for chosen, rejected in zip(texts[True], texts[False], strict=False)
    ]


def split(votes: Sequence[Vote], share_held_out: float, seed: int) -> tuple[list[Vote], list[Vote]]:
    """Return the votes to learn from and those held out, about this share of the prompts.

    A prompt's side hangs on the seed and itself alone: it stays there whatever votes are added.
    """
    sides: tuple[list[Vote], list[Vote]] = [], []
    for vote in votes:
        digest = hashlib.sha256(f"{seed}:{vote.prompt}".encode()).digest()
        sides[int.from_bytes(digest[:8], "big") < share_held_out * 2**64].append(vote)
    return sides


def report(selection: Selection) -> dict[str, Any]:
    """Return the figures of a selection, without texts and readers.

    ``agreement`` is the share of equal verdicts among all pairs of readers who voted on the same or
    a near-duplicate text, and had consented; None if there are no such pairs.
    """
    likes = sum(vote.liked for vote in selection.votes)
    return {
        "votes": len(selection.votes),
        "users": len({vote.user_id for vote in selection.votes}),
        "liked": likes,
        "disliked": len(selection.votes) - likes,
        "pairs": len(pairs(selection.votes)),
        "dropped": dict(selection.dropped),
        "agreement": selection.agreement,
    }


def as_json(votes: Sequence[Vote]) -> list[Row]:
    """Return votes as JSON has them, with their readers: not to be handed out."""
    return [{**asdict(vote), "created_at": vote.created_at.isoformat()} for vote in votes]


def from_json(rows: Sequence[Row]) -> list[Vote]:
    """Return the votes of ``as_json``."""
    return [
        Vote(**{**row, "created_at": datetime.fromisoformat(row["created_at"])}) for row in rows
    ]


def digest(votes: Sequence[Vote]) -> str:
    """Return the sha256 of what a model learns from the votes."""
    rows = json.dumps(unpaired(votes), ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(rows.encode()).hexdigest()


def _same_texts(votes: Sequence[Vote]) -> list[list[Vote]]:
    """Gather the votes on (nearly) the same completion, newest first within and among groups."""
    index = DuplicateIndex()
    groups: dict[str, list[Vote]] = {}
    newest_first = sorted(votes, key=lambda vote: (vote.created_at, vote.generation_id))[::-1]
    for place, vote in enumerate(newest_first):
        twin = index.find_twin(str(place), [vote.completion])
        groups.setdefault(twin.name if twin else str(place), []).append(vote)
    return list(groups.values())


def _agreement(groups: Sequence[Sequence[Vote]]) -> float | None:
    verdicts = [
        one.liked == other.liked
        for group in groups
        for one, other in itertools.combinations(group, 2)
        if one.user_id != other.user_id
    ]
    return sum(verdicts) / len(verdicts) if verdicts else None
