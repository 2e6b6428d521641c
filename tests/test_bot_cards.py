"""Model versions as an admin sees them, and the interval of their likes."""

from datetime import UTC, datetime
from typing import Any

import pytest
from aiogram.types import InlineKeyboardMarkup

from bot import cards
from bot.admin_texts import EN, RU
from bot.formatting import LIMIT, units
from bot.keyboards import Activate, RollBack, Share
from db.models import ModelVersion, VersionStatus
from db.versions import VersionVotes


def votes(
    status: VersionStatus = VersionStatus.CANDIDATE, likes: int = 0, dislikes: int = 0, **row: Any
) -> VersionVotes:
    values = {
        "id": 1,
        "name": "pushkin",
        "version": "1f0c",
        "share": 0.0,
        "meta": {},
        "created_at": datetime(2030, 6, 6, tzinfo=UTC),
    }
    return VersionVotes(ModelVersion(status=status, **values | row), likes, dislikes)


def data(markup: InlineKeyboardMarkup | None) -> list[str]:
    rows = markup.inline_keyboard if markup else []
    return [button.callback_data or "" for row in rows for button in row]


@pytest.mark.parametrize(
    ("likes", "number", "low", "high"),
    # Newcombe, Two-sided confidence intervals for the single proportion, Statistics in Medicine
    # 17 (1998), table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_is_the_published_one(
    likes: int, number: int, low: float, high: float
) -> None:
    assert cards.wilson(likes, number) == pytest.approx((low, high), abs=5e-5)
    upside_down = cards.wilson(number - likes, number)
    assert upside_down == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_what_keeps_a_version_from_being_loaded_is_said_in_one_line() -> None:
    """The admin was told that it answers; the worker knew better."""
    error = "models/pushkin/1f0c:\nno conversion here" + " and no torch" * 100
    text = cards.describe(votes(VersionStatus.ACTIVE, trouble=error), RU)
    assert text.startswith(f"pushkin 1f0c: ● {RU.appointed}\n")
    line = text.splitlines()[-1]
    assert line.startswith(RU.trouble.format(error="models/pushkin/1f0c: no conversion here and"))
    assert units(line) <= cards.TROUBLE + units(RU.trouble)
    assert RU.active in cards.describe(votes(VersionStatus.ACTIVE), RU)


def test_the_interval_stays_within_a_share() -> None:
    for number in range(1, 200):
        for likes in (0, 1, number - 1, number):
            low, high = cards.wilson(likes, number)
            places = [0, low, likes / number, high, 1]
            assert places == pytest.approx(sorted(places))


def test_a_version_is_described_with_its_figures_and_votes() -> None:
    meta = {"bits_per_character": {"validation": 1.7792}}
    row = votes(VersionStatus.CANDIDATE, 8, 2, share=0.1, meta=meta)
    assert cards.describe(row, RU).splitlines() == [
        "pushkin 1f0c: кандидат, испытание на 10 %",
        "2030-06-06, 1,779 бит/знак",
        "👍 8 👎 2, нравится 80 % (49–94 %)",
    ]
    assert cards.describe(votes(VersionStatus.ACTIVE), EN).splitlines() == [
        "pushkin 1f0c: ● answers",
        "2030-06-06",
        "no votes",
    ]


def test_the_list_shows_the_newest_and_an_older_active_one() -> None:
    rows = [
        votes(
            VersionStatus.ACTIVE if number == 2 else VersionStatus.CANDIDATE,
            id=number,
            name="имя" * 60,
            version=f"{number:064}",
        )
        for number in range(1, 21)
    ]
    text, markup = cards.listing(rows, None, RU)
    assert data(markup) == [f"version:{number}" for number in (*range(20, 12, -1), 2)]
    assert units(text) <= LIMIT
    assert cards.listing([], None, RU) == (RU.no_versions, None)


def test_the_list_offers_the_way_back_first() -> None:
    former = votes(VersionStatus.RETIRED, id=7).version
    _, markup = cards.listing([votes()], former, RU)
    assert data(markup)[0] == RollBack(version_id=7).pack()


def test_a_candidate_can_be_activated_and_shared() -> None:
    _, markup = cards.card(votes(), None, RU)
    wishes = [Activate(version_id=1, sure=False).pack()]
    wishes += [Share(version_id=1, percent=percent).pack() for percent in (0, 10, 25, 50)]
    assert data(markup) == [*wishes, "versions"]


def test_what_missed_a_bar_is_never_offered() -> None:
    figures = [{"name": "sentence_end", "passed": False}, {"name": "attributed", "passed": True}]
    row = votes(meta={"figures": figures})
    for text, markup in (cards.card(row, None, RU), cards.decision(row, None, RU)):
        assert RU.missed.format(figures=RU.sentence_end) in text
        assert data(markup) == ["versions"]


def test_a_passing_candidate_has_three_ways() -> None:
    _, markup = cards.decision(votes(), None, RU)
    assert data(markup) == [
        Activate(version_id=1, sure=False).pack(),
        Share(version_id=1, percent=10).pack(),
        Share(version_id=1, percent=0).pack(),
    ]


def test_an_active_version_can_only_be_left() -> None:
    former = votes(VersionStatus.RETIRED, id=7).version
    for shown in (cards.card, cards.decision):
        _, markup = shown(votes(VersionStatus.ACTIVE), former, RU)
        assert data(markup) == [RollBack(version_id=7).pack(), "versions"]
