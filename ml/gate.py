"""The gate between a candidate and the readers: figures before and after, bars, a verdict.

    lines = judge(before, after, Bars(), likes=64, dislikes=64)
    reasons(lines)  # none: it may be served

A candidate that fails a bar is kept with its reasons and never served.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

Figures = Mapping[str, float | None]  # a figure that could not be measured is None


@dataclass(frozen=True)
class Bars:
    """What a candidate must reach: fixed bounds, or so much worse than its parent at most."""

    preference_accuracy: float = 0.6  # of held-out couples
    beyond_chance: float = 1.645  # standard deviations: chance alone gets there one time in twenty
    bits_worse: float = 0.02  # share of the parent's bits per character
    repeated_4grams: float = 0.03  # at most
    verbatim_under_80: float = 0.98  # at least
    sentence_end: float = 0.95  # at least
    attributed_worse: float = 0.15  # below the parent's share of texts attributed to Pushkin


class Line(NamedTuple):
    """One figure of the table; it passes above its bar or below it."""

    name: str
    before: float | None
    after: float | None
    bar: float
    passed: bool


def chance(likes: int, dislikes: int, deviations: float) -> float:
    """Return a share of couples so many standard deviations above what knowing nothing gives.

    The share is the Mann-Whitney statistic U / (likes * dislikes). Under the null hypothesis it is
    about normal, with mean 1/2 and variance (likes + dislikes + 1) / (12 * likes * dislikes) (H. B.
    Mann, D. R. Whitney, "On a test of whether one of two random variables is stochastically larger
    than the other", 1947).
    """
    if not (likes and dislikes):
        return 1.0
    deviation = math.sqrt((likes + dislikes + 1) / (12 * likes * dislikes))
    return min(1.0, 0.5 + deviations * deviation)


def judge(before: Figures, after: Figures, bars: Bars, *, likes: int, dislikes: int) -> list[Line]:
    """Return a line for every figure. What could not be measured does not pass.

    ``likes`` and ``dislikes`` count the held-out votes: the fewer, the higher the bar over them.
    """
    bits = _number(before["bits_per_character"]) * (1 + bars.bits_worse)
    style = max(0.0, _number(before["attributed"]) - bars.attributed_worse)
    # A parent that repeats itself is not its child's fault.
    repeated = max(bars.repeated_4grams, _number(before["repeated_4grams"]))
    told_apart = max(bars.preference_accuracy, chance(likes, dislikes, bars.beyond_chance))
    at_least = {
        "preference_accuracy": told_apart,
        "verbatim_under_80": bars.verbatim_under_80,
        "sentence_end": bars.sentence_end,
        "attributed": style,
    }
    at_most = {"bits_per_character": bits, "repeated_4grams": repeated}
    lines = []
    for name, bar in {**at_least, **at_most}.items():
        value = after[name]
        passed = value is not None and (value >= bar if name in at_least else value <= bar)
        lines.append(Line(name, before[name], value, bar, passed))
    return lines


def reasons(lines: list[Line]) -> list[str]:
    """Return the names of the figures that miss their bars; none: it may be served."""
    return [line.name for line in lines if not line.passed]


def table(lines: list[Line]) -> list[dict[str, Any]]:
    """Return the lines as JSON has them."""
    return [line._asdict() for line in lines]


def _number(value: float | None) -> float:
    assert value is not None, "the parent was not measured"
    return value
