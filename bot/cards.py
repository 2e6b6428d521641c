"""Model versions as an admin sees them: the list, one version's card, and their buttons."""

from collections.abc import Sequence
from math import sqrt
from typing import Any

from aiogram.types import InlineKeyboardButton, InlineKeyboardMarkup

from bot import keyboards
from bot.admin_texts import AdminTexts
from bot.formatting import decimal, shorten
from bot.keyboards import button
from bot.report import named
from db.models import ModelVersion, VersionStatus
from db.versions import VersionVotes

NEWEST = 8  # versions in the list, and the active one
SHARES = (0, 10, 25, 50)  # % of the stories for a candidate
TROUBLE = 160  # units of what keeps a version from being loaded
TRIAL = 10  # % that are offered where a retraining is reported
Z = 1.959964  # the normal distribution has 95 % of its mass within ±Z


def wilson(likes: int, votes: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share, 0..1, by Wilson's score method.

    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n), p = likes/votes, n = votes > 0.
    E. B. Wilson, Probable Inference, the Law of Succession, and Statistical Inference,
    Journal of the American Statistical Association 22 (1927), 209-212.
    """
    assert 0 <= likes <= votes, f"{likes} likes of {votes} votes"
    assert votes, "no votes, no interval"
    share = likes / votes
    middle = share + Z**2 / (2 * votes)
    half = Z * sqrt(share * (1 - share) / votes + Z**2 / (4 * votes**2))
    whole = 1 + Z**2 / votes
    return (middle - half) / whole, (middle + half) / whole


def name_of(version: ModelVersion) -> str:
    """Return what a version is called."""
    return f"{version.name} {version.version}"


def missed_bars(version: ModelVersion) -> list[str]:
    """Return the bars of the gate that it failed: such a version never answers readers."""
    figures: list[dict[str, Any]] = version.meta.get("figures", [])
    return [figure["name"] for figure in figures if not figure["passed"]]


def listing(
    rows: Sequence[VersionVotes], back: ModelVersion | None, texts: AdminTexts
) -> tuple[str, InlineKeyboardMarkup | None]:
    """Return the newest versions and the active one, newest first, and a button for each."""
    if not rows:
        return texts.no_versions, None
    newest = rows[-NEWEST:]
    active = [row for row in rows[:-NEWEST] if row.version.status == VersionStatus.ACTIVE]
    shown = [*newest[::-1], *active]
    text = "\n\n".join([texts.versions, *(describe(row, texts) for row in shown), texts.interval])
    buttons = [
        [button(name_of(row.version), keyboards.Version(version_id=row.version.id))]
        for row in shown
    ]
    return text, InlineKeyboardMarkup(inline_keyboard=[*_back(back, texts), *buttons])


def describe(row: VersionVotes, texts: AdminTexts) -> str:
    """Return a version in three lines: name and state, figures, votes; trouble makes a fourth."""
    version, likes, dislikes = row
    status = {
        VersionStatus.ACTIVE: f"● {texts.appointed if version.trouble else texts.active}",
        VersionStatus.CANDIDATE: texts.candidate,
        VersionStatus.RETIRED: texts.retired,
    }[version.status]
    if version.share:
        status += f", {texts.share.format(percent=round(version.share * 100))}"
    facts = [f"{version.created_at:%Y-%m-%d}"]
    if bits := version.meta.get("bits_per_character", {}).get("validation"):
        facts.append(texts.bits.format(bits=decimal(bits, 3, texts.language)))
    votes = texts.no_likes
    if number := likes + dislikes:
        low, high = wilson(likes, number)
        votes = texts.likes.format(
            likes=likes,
            dislikes=dislikes,
            percent=round(100 * likes / number),
            low=round(100 * low),
            high=round(100 * high),
        )
    lines = [f"{name_of(version)}: {status}", ", ".join(facts), votes]
    if version.trouble:
        error = shorten(" ".join(version.trouble.split()), TROUBLE)
        lines.append(texts.trouble.format(error=error))
    return "\n".join(lines)


def card(
    row: VersionVotes, back: ModelVersion | None, texts: AdminTexts
) -> tuple[str, InlineKeyboardMarkup]:
    """Return one version and what can be done with it."""
    version, text = row.version, describe(row, texts)
    buttons = []
    if missed := missed_bars(version):
        text += f"\n\n{texts.missed.format(figures=named(missed, texts))}"
    elif version.status != VersionStatus.ACTIVE:
        wish = keyboards.Activate(version_id=version.id, sure=False)
        buttons.append([button(texts.activate, wish)])
    if version.status == VersionStatus.CANDIDATE and not missed:
        buttons.append(
            [
                button(f"{percent} %", keyboards.Share(version_id=version.id, percent=percent))
                for percent in SHARES
            ]
        )
    if version.status == VersionStatus.ACTIVE:
        buttons += _back(back, texts)
    buttons.append([button(texts.all_versions, keyboards.Versions())])
    return text, InlineKeyboardMarkup(inline_keyboard=buttons)


def confirmation(version: ModelVersion, texts: AdminTexts) -> InlineKeyboardMarkup:
    """Return: yes, activate; no."""
    yes = keyboards.Activate(version_id=version.id, sure=True)
    no = keyboards.Version(version_id=version.id)
    return InlineKeyboardMarkup(
        inline_keyboard=[[button(texts.activate_sure, yes), button(texts.no, no)]]
    )


def decision(
    row: VersionVotes, back: ModelVersion | None, texts: AdminTexts
) -> tuple[str, InlineKeyboardMarkup]:
    """Return what follows a report: a passing candidate's three ways, else the version's card."""
    version = row.version
    if version.status != VersionStatus.CANDIDATE or missed_bars(version):
        return card(row, back, texts)
    ways = [
        (texts.activate, keyboards.Activate(version_id=version.id, sure=False)),
        (
            texts.try_share.format(percent=TRIAL),
            keyboards.Share(version_id=version.id, percent=TRIAL),
        ),
        (texts.leave, keyboards.Share(version_id=version.id, percent=0)),
    ]
    buttons = [[button(text, data)] for text, data in ways]
    return f"{describe(row, texts)}\n\n{texts.decide}", InlineKeyboardMarkup(
        inline_keyboard=buttons
    )


def _back(version: ModelVersion | None, texts: AdminTexts) -> list[list[InlineKeyboardButton]]:
    if version is None:
        return []
    wish = keyboards.RollBack(version_id=version.id)
    return [[button(texts.roll_back.format(name=name_of(version)), wish)]]
