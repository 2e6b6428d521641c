"""Which votes count, and the rows they become."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ml.votes import (
    Vote,
    VotesError,
    as_json,
    digest,
    from_json,
    pairs,
    report,
    select,
    split,
    unpaired,
    vote,
)

NOON = datetime(2030, 6, 6, 12, tzinfo=UTC)


def story(number: int) -> str:
    """Return forty words that stand in no other story."""
    return " " + " ".join(f"слово{number}х{place}" for place in range(40))


def altered(text: str) -> str:
    """Return the story with one word changed."""
    words = text.split(" ")
    return " ".join([*words[:20], "иное", *words[21:]])


def cast(number: int, *, liked: bool = True, **changes: Any) -> Vote:
    """Return the vote of this number: on a story of its own, cast so many minutes past noon."""
    values: dict[str, Any] = {
        "prompt": f"Глава {number}",
        "completion": story(number),
        "liked": liked,
        "user_id": 1,
        "consent": True,
        "generation_id": number,
        "version": "pushkin 1",
        "created_at": NOON + timedelta(minutes=number),
    }
    return Vote(**values | changes)


def numbers(votes: Any) -> list[int]:
    return [vote.generation_id for vote in votes]


# Reading


def test_row_becomes_a_vote_on_what_the_model_saw() -> None:
    row: dict[str, Any] = {
        "generation_id": 3,
        "prompt": "Настала",
        "context": "Смеркалось.",
        "text": " ночь.",
        "value": -1,
        "user_id": 5,
        "consent": True,
        "version": "pushkin 1",
        "created_at": NOON,
    }
    found = vote(**row)
    assert (found.prompt, found.completion, found.liked) == ("Смеркалось. Настала", " ночь.", False)
    assert vote(**row | {"context": ""}).prompt == "Настала"
    assert vote(**row | {"prompt": ""}).prompt == "Смеркалось."
    assert vote(**row | {"value": 1}).liked


# Selection


def test_votes_that_count_come_newest_first() -> None:
    selection = select([cast(1), cast(3, liked=False), cast(2)])
    assert numbers(selection.votes) == [3, 2, 1]
    assert set(selection.dropped.values()) == {0}


def test_only_who_consented_is_learned_from() -> None:
    votes = [cast(1), cast(2, liked=False), cast(3, consent=None), cast(4, consent=False)]
    selection = select(votes)
    assert numbers(selection.votes) == [2, 1]
    assert selection.dropped["consent"] == 2


def test_of_a_reader_the_newest_votes_count_up_to_the_cap() -> None:
    eager = [cast(number, liked=number % 2 == 0) for number in range(6)]
    selection = select([*eager, cast(10, user_id=2), cast(11, user_id=2)], cap=2)
    assert numbers(selection.votes) == [11, 10, 5, 4]
    assert selection.dropped["cap"] == 4


def test_of_near_duplicates_the_newest_counts() -> None:
    votes = [
        cast(1),
        cast(2, completion=altered(story(1))),
        cast(3, completion=story(1), user_id=2),
        cast(4, liked=False),
    ]
    selection = select(votes)
    assert numbers(selection.votes) == [4, 3]
    assert selection.dropped["duplicate"] == 2


def test_duplicates_do_not_use_up_the_cap() -> None:
    votes = [cast(1), cast(2, liked=False), cast(3, completion=altered(story(2)), liked=False)]
    assert numbers(select(votes, cap=2).votes) == [3, 1]


def test_text_that_is_both_liked_and_disliked_does_not_count() -> None:
    votes = [
        cast(1),
        cast(2, completion=altered(story(1)), liked=False, user_id=2),
        cast(3),
        cast(4, liked=False),
    ]
    selection = select(votes)
    assert numbers(selection.votes) == [4, 3]
    assert selection.dropped["disputed"] == 2


@pytest.mark.parametrize(
    ("votes", "minimum", "missing"),
    [
        ([], 1, 2),
        ([cast(1), cast(2)], 1, 1),
        ([cast(1, liked=False)], 1, 1),
        ([cast(1), cast(2, liked=False, consent=None)], 1, 1),
        ([cast(1), cast(2, liked=False)], 10, 18),
        ([cast(1), cast(2), cast(3, liked=False)], 2, 1),
    ],
)
def test_too_few_votes_are_one_line_with_how_many_are_missing(
    votes: list[Vote], minimum: int, missing: int
) -> None:
    with pytest.raises(VotesError) as caught:
        select(votes, minimum=minimum)
    assert caught.value.missing == missing
    assert f"{missing} are missing" in str(caught.value)
    assert "\n" not in str(caught.value)


# Rows


def test_weights_balance_likes_and_dislikes() -> None:
    rows = unpaired([cast(1), cast(2), cast(3), cast(4, liked=False)])
    assert rows[3] == {
        "prompt": "Глава 4",
        "completion": story(4),
        "label": False,
        "weight": 2.0,
    }
    likes = [row["weight"] for row in rows if row["label"]]
    assert likes == pytest.approx([2 / 3] * 3)
    assert sum(row["weight"] for row in rows) == pytest.approx(len(rows))


def test_votes_of_one_kind_weigh_one_each() -> None:
    assert [row["weight"] for row in unpaired([cast(1), cast(2)])] == [1, 1]
    assert unpaired([]) == []


def test_pairs_are_liked_against_disliked_of_the_same_prompt() -> None:
    votes = [
        cast(1, prompt="Зимой"),
        cast(2, prompt="Зимой", liked=False, user_id=2),
        cast(3, prompt="Летом"),
        cast(4, prompt="Весной", liked=False),
    ]
    assert pairs(votes) == [{"prompt": "Зимой", "chosen": story(1), "rejected": story(2)}]


def test_text_stands_in_one_pair_at_most() -> None:
    likes = [cast(number, prompt="Зимой") for number in range(3)]
    dislikes = [cast(number, prompt="Зимой", liked=False) for number in range(3, 5)]
    found = pairs([*likes, *dislikes])
    assert len(found) == 2
    assert len({row[side] for row in found for side in ("chosen", "rejected")}) == 4


# The split


def test_no_prompt_stands_on_both_sides_and_no_vote_is_lost() -> None:
    votes = [cast(number, prompt=f"Глава {number % 100}") for number in range(400)]
    train, held_out = split(votes, 0.25, seed=1799)
    assert not {vote.prompt for vote in train} & {vote.prompt for vote in held_out}
    assert sorted(numbers(train) + numbers(held_out)) == list(range(400))
    assert 40 <= len(held_out) <= 160


def test_split_is_the_same_again_and_another_by_another_seed() -> None:
    votes = [cast(number) for number in range(100)]
    assert split(votes, 0.5, seed=1) == split(votes, 0.5, seed=1)
    assert split(votes, 0.5, seed=1) != split(votes, 0.5, seed=2)


def test_vote_stays_on_its_side_when_others_come() -> None:
    votes = [cast(number) for number in range(100)]
    _, few = split(votes[:50], 0.3, seed=1)
    _, many = split(votes, 0.3, seed=1)
    assert numbers(few) == [number for number in numbers(many) if number < 50]


@pytest.mark.parametrize(("share", "held"), [(0, 0), (1, 50)])
def test_share_of_nothing_and_of_everything(share: float, held: int) -> None:
    assert len(split([cast(number) for number in range(50)], share, seed=1)[1]) == held


# The report


def test_report_counts_what_is_there_and_what_is_not() -> None:
    votes = [
        cast(1, prompt="Зимой"),
        cast(2, prompt="Зимой", liked=False, user_id=2),
        cast(3),
        cast(4, user_id=3, consent=None),
    ]
    assert report(select(votes)) == {
        "votes": 3,
        "users": 2,
        "liked": 2,
        "disliked": 1,
        "pairs": 1,
        "dropped": {"consent": 1, "duplicate": 0, "disputed": 0, "cap": 0},
        "agreement": None,
    }


def test_agreement_is_the_share_of_equal_verdicts_of_two_readers() -> None:
    votes = [
        *(cast(number, liked=number > 2) for number in range(1, 5)),
        cast(11, completion=altered(story(1)), liked=False, user_id=2),
        cast(12, completion=story(2), liked=True, user_id=2),
        cast(13, completion=story(3), liked=True, user_id=2),
        cast(14, completion=story(3), liked=True, user_id=3),
        cast(15, completion=story(4), liked=False, user_id=3, consent=None),
    ]
    # One: both against. Two: they differ. Three: three readers agree in three pairs.
    assert report(select(votes))["agreement"] == pytest.approx(4 / 5)


def test_reader_does_not_agree_with_himself() -> None:
    votes = [cast(1), cast(2, completion=altered(story(1))), cast(3, liked=False)]
    assert report(select(votes))["agreement"] is None


# On disk


def test_kept_votes_come_back_as_they_were() -> None:
    votes = [cast(1), cast(2, liked=False, consent=None, prompt='«Ё» "\n"')]
    assert from_json(json.loads(json.dumps(as_json(votes)))) == votes


def test_digest_is_of_what_is_learned_and_not_of_who_taught_it() -> None:
    votes = [cast(1), cast(2, liked=False)]
    assert digest([cast(1, user_id=9), cast(2, liked=False)]) == digest(votes)
    assert digest([cast(1), cast(2)]) != digest(votes)
    assert digest([cast(1), cast(3, liked=False)]) != digest(votes)
