"""/retrain over real HTTP: who may, when it is refused, its progress and its end."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bot import admin_texts, keyboards
from bot.admin_texts import EN, RU
from bot.config import CONSOLE_CHAT
from bot.progress import Progress
from bot.report import verdict
from bot.texts import RU as READERS
from db import retraining
from db.models import Retraining, RetrainingStatus, VersionStatus
from db.session import Database
from tests.admin_stand import (
    ADMIN_ID,
    MINIMUM,
    add_candidate,
    add_votes,
    claim,
    finish,
    latest,
    open_admin_stand,
    statuses,
    tell,
)
from tests.retraining_report import a_report
from tests.stand import READER_ID, Stand
from tests.telegram_server import Message, User

GROUP_ID = -500
PNG = b"\x89PNG\r\n\x1a\n and so on"


@pytest.fixture
async def opened(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[tuple[Stand, User]]:
    monkeypatch.setattr("bot.progress.TICK", 0.05)
    monkeypatch.setattr("bot.progress.EDIT_EVERY", 0.1)
    async with open_admin_stand(sqlite) as opened:
        yield opened
    assert not [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]


@pytest.fixture
def stand(opened: tuple[Stand, User]) -> Stand:
    return opened[0]


@pytest.fixture
def admin(opened: tuple[Stand, User]) -> User:
    return opened[1]


async def ask(stand: Stand, admin: User) -> Message:
    """Ask /retrain with enough votes and return the question."""
    await add_votes(stand.database, [1, 1, -1, -1])
    await stand.server.say(admin, "/retrain")
    return await stand.answer(RU.ask, ADMIN_ID)


async def start(stand: Stand, admin: User) -> tuple[Message, Retraining]:
    """Start a retraining that a trainer holds; return the progress message too."""
    question = await ask(stand, admin)
    tap = await stand.server.tap(admin, question.message_id, RU.train)
    assert await stand.toast(tap) == RU.requested
    await stand.answer(RU.waiting, ADMIN_ID)
    return question, await claim(stand.database)


async def delivered(stand: Stand) -> None:
    """Wait until the admin knows the end."""
    async with asyncio.timeout(10):
        while (row := await latest(stand.database)) is None or row.delivered_at is None:
            await asyncio.sleep(0.02)


def said(stand: Stand) -> list[Message]:
    return [m for m in stand.messages(ADMIN_ID) if m.from_bot]


async def test_to_everybody_else_the_commands_do_not_exist(stand: Stand, admin: User) -> None:
    for command in ("/retrain", "/model"):
        await stand.server.say(stand.reader, command)
        await stand.server.wait_for(
            lambda: stand.last().from_bot and stand.last().text == READERS.unknown_command,
            what="the answer to an unknown command",
        )
    group = stand.server.group(GROUP_ID)
    for command in ("/retrain", "/model", "/nonsense"):
        await stand.server.say(stand.reader, command, chat=group)
    await stand.server.say(admin, "/model", chat=group)
    await stand.answer(RU.no_versions, GROUP_ID)
    assert len([m for m in stand.messages(GROUP_ID) if m.from_bot]) == 1


@pytest.mark.parametrize(
    "button",
    [
        keyboards.Train(yes=True),
        keyboards.Halt(retraining_id=1),
        keyboards.Versions(),
        keyboards.Version(version_id=1),
        keyboards.Activate(version_id=2, sure=True),
        keyboards.RollBack(version_id=1),
        keyboards.Share(version_id=2, percent=50),
    ],
)
async def test_a_forged_button_of_a_stranger_is_unknown(
    stand: Stand, admin: User, button: Any
) -> None:
    base = await add_votes(stand.database, [1, 1, -1, -1])
    await add_candidate(stand.database, "1f0c", base)
    _, row = await start(stand, admin)
    await stand.server.say(stand.reader, "/help")
    answer = await stand.answer("/story")
    tap = await stand.server.forge(stand.reader, answer.message_id, button.pack())
    assert await stand.toast(tap) == READERS.old_button
    assert await tell(stand.database, row, "sft")  # not cancelled
    assert await statuses(stand.database) == {
        "base": (VersionStatus.ACTIVE, 0.0),
        "1f0c": (VersionStatus.CANDIDATE, 0.0),
    }


async def test_too_few_votes_are_refused_with_what_is_missing(stand: Stand, admin: User) -> None:
    await add_votes(stand.database, [1, -1, -1])
    await add_votes(stand.database, [1] * 10, user_id=8, consent=False)
    await stand.server.say(admin, "/retrain")
    refusal = RU.too_few.format(minimum=MINIMUM, likes=1, dislikes=0)
    answer = await stand.answer(refusal, ADMIN_ID)
    report = RU.votes.format(votes=3, readers=1, liked=1, disliked=2, fresh=3)
    assert answer.text.startswith(report)
    assert answer.buttons == []
    # Nor by a button that was there before.
    tap = await stand.server.forge(admin, answer.message_id, keyboards.Train(yes=True).pack())
    await stand.toast(tap)
    await stand.server.wait_for(lambda: "Голосов" not in answer.text, what="a refusal")
    assert answer.text == refusal
    assert await latest(stand.database) is None


async def test_votes_of_one_kind_are_refused(stand: Stand, admin: User) -> None:
    await add_votes(stand.database, [1] * MINIMUM)
    await stand.server.say(admin, "/retrain")
    refusal = RU.too_few.format(minimum=MINIMUM, likes=0, dislikes=MINIMUM)
    assert (await stand.answer(refusal, ADMIN_ID)).buttons == []


async def test_no_votes_at_all_are_refused(stand: Stand, admin: User) -> None:
    await stand.server.say(admin, "/retrain")
    refusal = RU.too_few.format(minimum=MINIMUM, likes=MINIMUM, dislikes=MINIMUM)
    assert (await stand.answer(refusal, ADMIN_ID)).buttons == []


async def test_not_now_starts_nothing(stand: Stand, admin: User) -> None:
    question = await ask(stand, admin)
    assert [b["text"] for b in question.buttons] == [RU.train, RU.not_now]
    await stand.toast(await stand.server.tap(admin, question.message_id, RU.not_now))
    await stand.answer(RU.put_off, ADMIN_ID)
    assert question.buttons == []
    assert await latest(stand.database) is None


async def test_the_question_becomes_the_progress(stand: Stand, admin: User) -> None:
    message, row = await start(stand, admin)
    assert (row.requested_by, row.chat_id, row.language) == (ADMIN_ID, ADMIN_ID, "ru")
    assert [b["text"] for b in message.buttons] == [RU.cancel]
    for step in ("30", "60"):
        await tell(stand.database, row, "sft", step=int(step), steps=120, loss=2.3)
        await stand.answer(RU.step.format(step=step, steps=120), ADMIN_ID)
    assert message.text.startswith(RU.phase_sft)
    assert said(stand)[-1] is message


async def test_edits_are_seldom(stand: Stand, admin: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.progress.EDIT_EVERY", 1000.0)
    message, row = await start(stand, admin)
    edits = message.edits
    for step in range(1, 6):
        assert await tell(stand.database, row, "sft", step=step, steps=120)
        await stand.app.progress.look()
    assert message.edits == edits
    await finish(stand.database, row, a_report())  # the end does not wait
    await delivered(stand)


async def test_flood_control_is_obeyed(stand: Stand, admin: User) -> None:
    message, row = await start(stand, admin)
    stand.server.fail_next("editMessageText", retry_after=1)
    await tell(stand.database, row, "sft", step=1, steps=2)
    await stand.server.wait_for(lambda: "1 из 2" in message.text, what="the step")
    stand.server.fail_next("sendMessage", retry_after=1)
    await finish(stand.database, row, a_report())
    await delivered(stand)
    assert stand.server.violations == []
    assert sum("pushkin-mini 1f0c" in m.text for m in said(stand)) == 1


async def test_one_at_a_time(stand: Stand, admin: User) -> None:
    message, row = await start(stand, admin)
    await tell(stand.database, row, "preference", step=1, steps=2)
    await stand.server.say(admin, "/retrain")
    second = await stand.answer(RU.under_way, ADMIN_ID)
    assert RU.phase_preference in second.text
    assert second.buttons == []
    # An older question's button too.
    tap = await stand.server.forge(admin, second.message_id, keyboards.Train(yes=True).pack())
    await stand.toast(tap)
    assert second.text.startswith(RU.under_way)
    found = await latest(stand.database)
    assert found is not None
    assert (found.id, found.message_id) == (row.id, message.message_id)


async def test_cancel_stops_the_trainer_and_is_said(stand: Stand, admin: User) -> None:
    message, row = await start(stand, admin)
    tap = await stand.server.tap(admin, message.message_id, RU.cancel)
    assert await stand.toast(tap) == RU.cancelling
    assert not await tell(stand.database, row, "sft")
    await stand.answer(RU.cancelled, ADMIN_ID)
    await delivered(stand)
    assert message.buttons == []
    halt = keyboards.Halt(retraining_id=row.id).pack()
    tap = await stand.server.forge(admin, message.message_id, halt)
    assert await stand.toast(tap) == RU.over


async def test_the_end_brings_table_picture_stories_and_the_decision(
    stand: Stand, admin: User, tmp_path: Path
) -> None:
    message, row = await start(stand, admin)
    picture = tmp_path / "loss.png"
    picture.write_bytes(PNG)
    report = a_report(picture=str(picture))
    base = await add_votes(stand.database, [])
    version_id = await add_candidate(stand.database, "1f0c", base, figures=report["figures"])
    before = len(said(stand))
    await finish(stand.database, row, report, version_id)
    await delivered(stand)
    table, loss, stories, decision = said(stand)[before:]
    assert RU.bits_per_character in table.text
    assert verdict(report, RU) in table.text
    assert [e["type"] for e in table.entities] == ["pre"]
    assert loss.picture == PNG
    assert loss.media["caption"] == RU.losses
    assert [e["type"] for e in stories.entities].count("expandable_blockquote") == 6
    assert RU.decide in decision.text
    ways = [RU.activate, RU.try_share.format(percent=10), RU.leave]
    assert [b["text"] for b in decision.buttons] == ways
    assert message.buttons == []
    tap = await stand.server.tap(admin, decision.message_id, ways[1])
    assert "10 %" in await stand.toast(tap)
    assert (await statuses(stand.database))["1f0c"] == (VersionStatus.CANDIDATE, 0.1)
    assert len(said(stand)) == before + 4  # once


async def test_a_version_that_missed_a_bar_is_offered_nowhere(stand: Stand, admin: User) -> None:
    _, row = await start(stand, admin)
    figures = a_report()["figures"]
    figures[0]["passed"] = False
    report = a_report(figures=figures, reasons=["preference_accuracy"])
    version_id = await add_candidate(stand.database, "1f0c", figures=figures)
    await finish(stand.database, row, report, version_id)
    await delivered(stand)
    decision = said(stand)[-1]
    assert RU.missed.format(figures=RU.preference_accuracy) in decision.text
    assert [b["text"] for b in decision.buttons] == [RU.all_versions]


async def test_a_picture_that_telegram_refuses_loses_nothing_else(
    stand: Stand, admin: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.progress.TROUBLE_PAUSE", 0.001)
    picture = tmp_path / "loss.png"
    picture.write_bytes(b"no picture at all")
    _, row = await start(stand, admin)
    before = len(said(stand))
    await finish(stand.database, row, a_report(picture=str(picture)))
    await delivered(stand)
    table, stories = said(stand)[before:]
    assert RU.bits_per_character in table.text
    assert RU.stories in stories.text


async def test_a_failure_is_said_in_one_line(stand: Stand, admin: User) -> None:
    message, row = await start(stand, admin)
    async with stand.database.write() as session:
        await retraining.fail(session, row.id, "trainer", row.attempts, error="диск\nполон")
    await stand.answer(RU.failed.format(error="диск полон"), ADMIN_ID)
    await delivered(stand)
    assert message.buttons == []


async def test_a_restarted_bot_goes_on_in_the_same_message(stand: Stand, admin: User) -> None:
    message, row = await start(stand, admin)
    await stand.app.progress.stop()
    number = len(said(stand))
    again = Progress(stand.app.bot, stand.database)
    await tell(stand.database, row, "gate", step=1, steps=2)
    await again.look()
    assert message.text.startswith(RU.phase_gate)
    assert [b["text"] for b in message.buttons] == [RU.cancel]
    assert len(said(stand)) == number


async def test_a_progress_message_that_is_gone_is_sent_anew(stand: Stand, admin: User) -> None:
    message, row = await start(stand, admin)
    await stand.app.bot.delete_message(ADMIN_ID, message.message_id)
    await tell(stand.database, row, "gate")
    fresh = await stand.answer(RU.phase_gate, ADMIN_ID)
    assert fresh.message_id != message.message_id
    async with asyncio.timeout(10):  # it is noted a moment after it is sent
        while (found := await latest(stand.database)) and found.message_id != fresh.message_id:
            await asyncio.sleep(0.02)
    assert [b["text"] for b in fresh.buttons] == [RU.cancel]


async def test_a_retraining_of_the_terminal_is_left_to_it(stand: Stand) -> None:
    async with stand.database.write() as session:
        row = await retraining.request(
            session, requested_by=1, chat_id=CONSOLE_CHAT, language="ru", settings={}
        )
        assert row is not None
        await retraining.cancel(session, row.id)
    await stand.app.progress.look()
    found = await latest(stand.database)
    assert found is not None
    assert found.status == RetrainingStatus.CANCELLED
    assert found.delivered_at is None


async def test_a_broken_report_does_not_stop_the_bot(
    stand: Stand, admin: User, caplog: pytest.LogCaptureFixture
) -> None:
    _, row = await start(stand, admin)
    await finish(stand.database, row, {"figures": "none"})
    await stand.server.wait_for(
        lambda: [r for r in caplog.records if r.levelno >= logging.ERROR], what="a logged error"
    )
    caplog.clear()
    await stand.server.say(stand.reader, "/help")
    await stand.answer("/story")


async def test_an_english_admin_reads_english(stand: Stand) -> None:
    admin = stand.server.user(ADMIN_ID, language_code="en")
    await add_votes(stand.database, [1, 1, -1, -1])
    await stand.server.say(admin, "/retrain")
    question = await stand.answer(EN.ask, ADMIN_ID)
    await stand.toast(await stand.server.tap(admin, question.message_id, EN.train))
    await stand.answer(EN.waiting, ADMIN_ID)
    await finish(stand.database, await claim(stand.database), a_report())
    await delivered(stand)
    assert EN.stories in said(stand)[-1].text


async def test_admins_have_their_own_commands(stand: Stand) -> None:
    def menu(scope: str, language: str) -> list[str]:
        found = [
            commands
            for (where, code), commands in stand.server.commands.items()
            if f'"{scope}"' in where and code == language
        ]
        return [command["command"] for commands in found for command in commands]

    for language in ("", "ru"):
        assert menu("default", language) == ["story", "help", "privacy", "start"]
        own = ["story", "help", "privacy", "start", "retrain", "model"]
        assert menu("chat", language) == own
    assert not [m for m in stand.messages(READER_ID) if m.from_bot]


def test_texts_are_found_by_language() -> None:
    assert admin_texts.admin_texts_for("ru") is RU
    assert admin_texts.admin_texts_for("en") is EN
