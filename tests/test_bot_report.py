"""A retraining in words: progress, table, curves and stories, within Telegram's limits."""

from pathlib import Path
from typing import Any

import pytest

from bot.admin_texts import EN, RU
from bot.formatting import LIMIT, Part, units
from bot.report import AT_MOST, CURVE, Piece, outcome, progress, sparkline, verdict
from db.models import Retraining, RetrainingStatus
from tests.retraining_report import FIGURES, a_report


def row(status: RetrainingStatus = RetrainingStatus.DONE, **values: Any) -> Retraining:
    return Retraining(id=1, status=status, **{"phase": "", "progress": {}} | values)


def done(**changes: Any) -> list[Piece]:
    return outcome(row(report=a_report(**changes)), RU)


def marked(part: Part, kind: str) -> list[str]:
    """Return what stands under the entities of a kind; offsets are in UTF-16 units."""
    whole = part.text.encode("utf-16-le")
    return [
        whole[2 * e.offset : 2 * (e.offset + e.length)].decode("utf-16-le")
        for e in part.entities
        if e.type == kind
    ]


def test_progress_says_the_phase_the_step_and_the_loss() -> None:
    running = RetrainingStatus.RUNNING
    assert progress(row(RetrainingStatus.QUEUED), RU) == RU.waiting
    assert progress(row(running), RU) == RU.starting
    figures = {"step": 30, "steps": 120, "loss": 2.3456}
    assert progress(row(running, phase="sft", progress=figures), RU).splitlines() == [
        RU.phase_sft,
        "▓▓▓░░░░░░░░░ 25%",
        "шаг 30 из 120, потери 2,346",
    ]
    assert "loss 2.346" in progress(row(running, phase="sft", progress=figures), EN)


@pytest.mark.parametrize("phase", ["export", "sft", "preference", "gate", "publish"])
def test_every_phase_of_the_retrainer_has_its_words(phase: str) -> None:
    running = row(RetrainingStatus.RUNNING, phase=phase)
    assert progress(running, RU) == getattr(RU, f"phase_{phase}")
    assert progress(running, EN) == getattr(EN, f"phase_{phase}")


def test_a_phase_that_this_bot_does_not_know_goes_by_its_own_name() -> None:
    assert progress(row(RetrainingStatus.RUNNING, phase="polish"), RU) == "polish"


@pytest.mark.parametrize(
    ("figures", "lines"),
    [({}, 1), ({"step": 0}, 1), ({"step": 0, "steps": 2}, 3), ({"loss": 0.7}, 2)],
)
def test_progress_leaves_out_what_is_not_known(figures: dict[str, Any], lines: int) -> None:
    text = progress(row(RetrainingStatus.RUNNING, phase="gate", progress=figures), RU)
    assert text.splitlines()[0] == RU.phase_gate
    assert len(text.splitlines()) == lines


def test_the_table_is_monospaced_and_has_every_figure() -> None:
    part = done()[0].part
    (table,) = marked(part, "pre")
    head, *lines = table.splitlines()
    assert head.split() == [RU.before, RU.after, RU.bar]
    assert len(lines) == len(FIGURES)
    for line, (name, _, _, _) in zip(lines, FIGURES, strict=True):
        assert line.startswith(getattr(RU, name))
        assert line.endswith("✓")
        assert ("≤" in line) == (name in AT_MOST)
    assert len({line.rindex("✓") for line in lines}) == 1  # columns stand under each other
    assert lines[0].split() == ["верно", "по", "голосам", "—", "0,620", "≥0,550", "✓"]
    assert max(map(len, lines)) <= 40  # a phone's width
    assert "pushkin-mini 1f0c" in part.text
    assert "12,5" in part.text
    assert "120" in part.text


def test_missed_bars_are_named_in_the_admins_language() -> None:
    figures = a_report()["figures"]
    figures[0] |= {"after": None, "passed": False}
    report = a_report(figures=figures, reasons=["preference_accuracy"])
    assert verdict(report, RU) == RU.missed.format(figures=RU.preference_accuracy)
    assert verdict(report, EN) == EN.missed.format(figures=EN.preference_accuracy)
    (table,) = marked(outcome(row(report=report), RU)[0].part, "pre")
    assert table.splitlines()[1].endswith("✗")


@pytest.mark.parametrize("word", ["active", "trial", "candidate"])
def test_every_verdict_has_its_words(word: str) -> None:
    assert verdict(a_report(verdict=word), EN) == getattr(EN, f"verdict_{word}")


def test_the_picture_is_sent_where_there_is_one(tmp_path: Path) -> None:
    file = tmp_path / "loss.png"
    file.write_bytes(b"a picture")
    assert done(picture=str(file))[1].picture == file


def test_without_a_picture_the_curves_are_drawn_in_signs(tmp_path: Path) -> None:
    piece = done(picture=str(tmp_path / "gone.png"))[1]
    assert piece.picture is None
    (curves,) = marked(piece.part, "pre")
    sft, drawn, preference, pair = curves.splitlines()
    assert sft == "sft: 3,09 → 2,30"
    assert drawn == sparkline([3.1 - step / 100 for step in range(1, 81)])
    assert preference == "preference: 0,70 → 0,61"
    assert pair == "█▁"


def test_no_curve_is_said_by_a_dash() -> None:
    assert marked(done(curves={"sft": []})[1].part, "pre") == ["—"]


def test_a_sparkline_falls_with_its_curve() -> None:
    assert sparkline([3.0, 2.0, 1.0]) == "█▅▁"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([]) == ""
    line = sparkline([100 - value for value in range(100)])
    assert len(line) == CURVE
    assert list(line) == sorted(line, reverse=True)


def test_stories_stand_under_each_other_folded() -> None:
    part = done()[2].part
    assert marked(part, "bold") == ["Начало 1.", "Начало 2.", "Начало 3."]
    assert marked(part, "expandable_blockquote") == [
        "Прежде 1.",
        "Теперь 1.",
        "Прежде 2.",
        "Теперь 2.",
        "Прежде 3.",
        "Теперь 3.",
    ]


@pytest.mark.parametrize("text", ["Мело весь день. " * 300, "🌨" * 5000, "слово " * 900])
def test_long_stories_are_cut_to_stay_under_the_limit(text: str) -> None:
    story = {"opening": text, "before": text, "after": text}
    part = done(stories=[story] * 3)[2].part
    assert units(part.text) <= LIMIT
    quotes = marked(part, "expandable_blockquote")
    assert len(quotes) == 6
    assert all(quote.endswith(" …") for quote in quotes)
    if "." in text:
        assert all(quote.endswith(". …") for quote in quotes)  # at a sentence


def test_an_empty_story_still_has_its_place() -> None:
    story = {"opening": "Начало.", "before": "", "after": "Теперь."}
    assert marked(done(stories=[story])[2].part, "expandable_blockquote") == ["—", "Теперь."]
    assert len(done(stories=[])) == 2


def test_a_failure_is_one_line() -> None:
    error = "диск\nполон " + "очень " * 400
    (piece,) = outcome(row(RetrainingStatus.FAILED, error=error), RU)
    assert piece.part.text.startswith(RU.failed.format(error="диск полон"))
    assert "\n" not in piece.part.text
    assert units(piece.part.text) < 600
