"""The gate: what a candidate must reach, and what it must not lose."""

import random
from typing import Any

import pytest

from ml import gate
from ml.gate import Bars, Figures, Line, reasons, table

BEFORE: dict[str, Any] = {
    "preference_accuracy": None,
    "bits_per_character": 2.0,
    "repeated_4grams": 0.01,
    "verbatim_under_80": 1.0,
    "sentence_end": 1.0,
    "attributed": 0.6,
}
AFTER = {**BEFORE, "preference_accuracy": 0.7}


def judge(before: Figures, after: Figures, bars: Bars) -> list[Line]:
    """Judge by votes enough for chance to stay below the bar."""
    return gate.judge(before, after, bars, likes=64, dislikes=64)


def test_candidate_that_is_as_good_as_its_parent_passes() -> None:
    lines = judge(BEFORE, AFTER, Bars())
    assert reasons(lines) == []
    assert {line["name"] for line in table(lines)} == set(BEFORE)


@pytest.mark.parametrize(
    ("name", "just", "too_bad"),
    [
        ("preference_accuracy", 0.6, 0.59),
        ("bits_per_character", 2.04, 2.05),
        ("repeated_4grams", 0.03, 0.031),
        ("verbatim_under_80", 0.98, 0.97),
        ("sentence_end", 0.95, 0.94),
        ("attributed", 0.45, 0.44),
    ],
)
def test_each_figure_alone_can_refuse(name: str, just: float, too_bad: float) -> None:
    assert reasons(judge(BEFORE, {**AFTER, name: just}, Bars())) == []
    assert reasons(judge(BEFORE, {**AFTER, name: too_bad}, Bars())) == [name]


def test_what_could_not_be_measured_does_not_pass() -> None:
    assert reasons(judge(BEFORE, BEFORE, Bars())) == ["preference_accuracy"]


def test_parent_that_repeats_itself_lowers_the_bar_of_repetition_only_to_its_own() -> None:
    parent = {**BEFORE, "repeated_4grams": 0.1}
    assert reasons(judge(parent, {**AFTER, "repeated_4grams": 0.1}, Bars())) == []
    refused = judge(parent, {**AFTER, "repeated_4grams": 0.11}, Bars())
    assert reasons(refused) == ["repeated_4grams"]


@pytest.mark.parametrize(("votes", "bar"), [(200, 0.6), (64, 0.6), (16, 0.67), (8, 0.745), (2, 1)])
def test_fewer_votes_must_be_told_apart_better(votes: int, bar: float) -> None:
    lines = gate.judge(BEFORE, AFTER, Bars(), likes=votes, dislikes=votes)
    assert lines[0].name == "preference_accuracy"
    assert lines[0].bar == pytest.approx(bar, abs=0.005)


def test_chance_passes_one_time_in_twenty() -> None:
    dice = random.Random(1799)
    passed = 0
    for _ in range(2000):
        ups, downs = ([dice.random() for _ in range(20)] for _ in "ab")
        share = sum(up > down for up in ups for down in downs) / 400
        passed += share >= gate.chance(20, 20, Bars().beyond_chance)
    assert 0.03 < passed / 2000 < 0.07
