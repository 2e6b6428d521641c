"""A retraining in words: how far it is, and what came out of it, as messages for the admin."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from aiogram.utils.formatting import Bold, ExpandableBlockQuote, Pre, Text

from bot.admin_texts import AdminTexts
from bot.formatting import Part, decimal, shorten
from db.models import Retraining, RetrainingStatus

BAR = 12  # signs in the progress bar
ERROR = 500  # units of an error that are shown
OPENING, STORY = 160, 560  # units: three openings and six stories stay under a message's limit
CURVE = 28  # signs of a curve; a phone shows about 35 in a row
LEVELS = "▁▂▃▄▅▆▇█"
AT_MOST = ("bits_per_character", "repeated_4grams")  # their bars are upper bounds


@dataclass(frozen=True)
class Piece:
    """One message of a report: words, or a picture with nothing to say."""

    part: Part
    picture: Path | None = None


def progress(row: Retraining, texts: AdminTexts) -> str:
    """Say how far a retraining under way is."""
    if row.status == RetrainingStatus.QUEUED:
        return texts.waiting
    if not row.phase:
        return texts.starting
    phases = {
        "export": texts.phase_export,
        "sft": texts.phase_sft,
        "preference": texts.phase_preference,
        "gate": texts.phase_gate,
        "publish": texts.phase_publish,
    }
    # A trainer that is newer than this bot may have phases more: they go by their own names.
    lines = [phases.get(row.phase, row.phase)]
    step, steps = row.progress.get("step"), row.progress.get("steps")
    loss = row.progress.get("loss")
    figures = []
    if step is not None and steps:
        share = min(step / steps, 1.0)
        full = round(share * BAR)
        lines.append(f"{'▓' * full}{'░' * (BAR - full)} {share:.0%}")
        figures.append(texts.step.format(step=step, steps=steps))
    if loss is not None:
        figures.append(texts.loss.format(loss=decimal(loss, 3, texts.language)))
    return "\n".join([*lines, ", ".join(figures)]).rstrip()


def outcome(row: Retraining, texts: AdminTexts) -> list[Piece]:
    """Return the messages that tell the end of a retraining, without the last: the decision."""
    if row.status == RetrainingStatus.CANCELLED:
        return [Piece(Part(texts.cancelled, []))]
    if row.status == RetrainingStatus.FAILED:
        error = shorten(" ".join((row.error or "").split()), ERROR)
        return [Piece(Part(texts.failed.format(error=error), []))]
    assert row.report is not None, f"retraining {row.id} is done without a report"
    report = row.report
    pieces = [Piece(_figures(report, texts)), _losses(report, texts)]
    if report["stories"]:
        pieces.append(Piece(_stories(report["stories"], texts)))
    return pieces


def verdict(report: dict[str, Any], texts: AdminTexts) -> str:
    """Say what became of the version, and which bars it missed."""
    if report["reasons"]:
        return texts.missed.format(figures=named(report["reasons"], texts))
    return {
        "active": texts.verdict_active,
        "trial": texts.verdict_trial,
        "candidate": texts.verdict_candidate,
    }[report["verdict"]]


def named(figures: Sequence[str], texts: AdminTexts) -> str:
    """Return figures by their names in the admin's language."""
    return ", ".join(getattr(texts, figure) for figure in figures)


def sparkline(values: Sequence[float], width: int = CURVE) -> str:
    """Draw a curve in one line of at most ``width`` signs, each the mean of its stretch."""
    number = min(width, len(values))
    edges = [place * len(values) // number for place in range(number + 1)] if number else []
    means = [sum(values[start:end]) / (end - start) for start, end in pairwise(edges)]
    if not means:
        return ""
    low, span = min(means), max(means) - min(means)
    top = len(LEVELS) - 1
    return "".join(LEVELS[round((mean - low) / span * top) if span else 0] for mean in means)


def _figures(report: dict[str, Any], texts: AdminTexts) -> Part:
    """Return the head and the table before/after, monospaced."""

    def cell(value: float | None) -> str:
        return "—" if value is None else decimal(value, 3, texts.language)

    rows = [f"{'':16}{texts.before:>6} {texts.after:>6} {texts.bar:>7}"]
    for figure in report["figures"]:
        name = figure["name"]
        bar = f"{'≤' if name in AT_MOST else '≥'}{cell(figure['bar'])}"
        mark = "✓" if figure["passed"] else "✗"
        before, after = cell(figure["before"]), cell(figure["after"])
        rows.append(f"{getattr(texts, name):16}{before:>6} {after:>6} {bar:>7} {mark}")
    head = texts.done.format(
        name=report["name"],
        version=report["version"],
        minutes=decimal(report["minutes"], 1, texts.language),
        **{key: report["votes"][key] for key in ("votes", "users", "liked", "disliked")},
    )
    return part(head, "\n\n", Pre("\n".join(rows)), "\n", verdict(report, texts))


def _losses(report: dict[str, Any], texts: AdminTexts) -> Piece:
    """Return the picture that the retraining drew; without one, its curves as signs."""
    picture = report.get("picture")
    if picture and Path(picture).is_file():
        return Piece(Part(texts.losses, []), Path(picture))
    rows = []
    for name, curve in report["curves"].items():
        if losses := [loss for _, loss in curve]:
            first, last = (decimal(loss, 2, texts.language) for loss in (losses[0], losses[-1]))
            rows.append(f"{name}: {first} → {last}\n{sparkline(losses)}")
    return Piece(part(texts.losses, "\n", Pre("\n".join(rows) or "—")))


def _stories(stories: Sequence[dict[str, str]], texts: AdminTexts) -> Part:
    """Return the stories before and after, one under the other, folded."""
    blocks: list[Text | str] = [texts.stories]
    for story in stories:
        blocks += ["\n\n", Bold(shorten(story["opening"], OPENING) or "—")]
        for label, text in ((texts.before, story["before"]), (texts.after, story["after"])):
            blocks += [f"\n{label}:\n", ExpandableBlockQuote(shorten(text, STORY) or "—")]
    return part(*blocks)


def part(*blocks: Text | str) -> Part:
    """Return one message of aiogram's formatted blocks."""
    return Part(*Text(*blocks).render())
