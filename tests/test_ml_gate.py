"""The gate: what a candidate must reach, and what it must not lose."""

from typing import Any

import pytest

from ml.gate import Bars, judge, reasons, table

BEFORE: dict[str, Any] = {
    "preference_accuracy": None,
    "bits_per_character": 2.0,
    "repeated_4grams": 0.01,
    "verbatim_under_80": 1.0,
    "sentence_end": 1.0,
    "attributed": 0.6,
}
AFTER = {**BEFORE, "preference_accuracy": 0.7}


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
