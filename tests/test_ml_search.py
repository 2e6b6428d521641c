"""The search: a killed one draws what it would have drawn, bad trials end early."""

from pathlib import Path
from typing import Any

import pytest

from ml.search import Pruned, Range, Report, search

SPACE = {"layers": Range(1, 4), "rate": Range(0.001, 0.1, log=True), "dropout": Range(0.0, 0.2)}


class KilledError(Exception):
    pass


def seen(journal: Path, trials: int, kill_at: int | None = None) -> list[dict[str, Any]]:
    drawn: list[dict[str, Any]] = []

    def objective(number: int, settings: dict[str, Any], report: Report) -> float:
        if number == kill_at:
            raise KilledError
        drawn.append(settings)
        report(1, settings["rate"])
        return settings["rate"]

    search("toy", SPACE, objective, trials=trials, journal=journal, seed=3)
    return drawn


def test_settings_lie_in_their_ranges_and_differ(tmp_path: Path) -> None:
    drawn = seen(tmp_path / "a.log", 8)
    assert {type(settings["layers"]) for settings in drawn} == {int}
    assert all(1 <= s["layers"] <= 4 and 0.001 <= s["rate"] <= 0.1 for s in drawn)
    assert all(0 <= s["dropout"] <= 0.2 for s in drawn)
    assert len({s["rate"] for s in drawn}) == 8


def test_killed_search_goes_on_with_what_it_would_have_drawn(tmp_path: Path) -> None:
    unbroken = seen(tmp_path / "unbroken.log", 5)
    with pytest.raises(KilledError):
        seen(tmp_path / "broken.log", 5, kill_at=2)
    assert seen(tmp_path / "broken.log", 5) == unbroken[2:]
    assert seen(tmp_path / "broken.log", 5) == []


def test_trial_worse_than_the_median_is_pruned(tmp_path: Path) -> None:
    ended: list[int] = []

    def objective(number: int, _: dict[str, Any], report: Report) -> float:
        figure = 9.0 if number == 5 else 1.0 + number / 10
        report(1, figure)
        ended.append(number)
        return figure

    trials = search("toy", SPACE, objective, trials=6, journal=tmp_path / "a.log", seed=3)
    assert 5 not in ended
    assert [t.state for t in trials] == ["complete"] * len(ended) + ["pruned"] * (6 - len(ended))
    assert (trials[5].figure, trials[5].reported) == (None, {1: 9.0})
    assert (trials[0].figure, trials[0].number) == (1.0, 0)


def test_pruned_is_raised_through_the_objective(tmp_path: Path) -> None:
    caught: list[int] = []

    def objective(number: int, _: dict[str, Any], report: Report) -> float:
        try:
            report(1, float(number))
        except Pruned:
            caught.append(number)
            raise
        return float(number)

    search("toy", SPACE, objective, trials=8, journal=tmp_path / "a.log", seed=3)
    assert caught == [4, 5, 6, 7]  # the first four are never pruned
