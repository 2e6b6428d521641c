"""The terminal chat: the same bot behind a session that prints."""

import asyncio
import io
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import select

from bot.admin_texts import RU as RU_ADMIN
from bot.app import App
from bot.config import CONSOLE_CHAT, BotSettings
from bot.console import ConsoleSession, converse, lines_of
from bot.screen import Screen
from bot.texts import EN, RU
from db import jobs, queries, retraining
from db.models import Job, Rating, User, VersionStatus
from db.session import Database
from ml.engine import EchoEngine
from ml.worker import Worker
from tests.admin_stand import add_candidate, add_votes, claim, finish, latest, statuses
from tests.retraining_report import a_report


@pytest.fixture
async def worker(sqlite: Database) -> AsyncIterator[None]:
    worker = Worker(sqlite, EchoEngine(words=6), slots=2)
    task = asyncio.create_task(worker.run())
    yield
    await worker.give_back()
    await task


async def talk(database: Database, tmp_path: Path, lines: str, language: str = "ru") -> str:
    """Run the console on a file of lines until it ends; return what it printed."""
    file = tmp_path / "input.txt"
    file.write_text(lines, "utf-8")
    out = io.StringIO()
    session = ConsoleSession(Screen(out), language)
    app = App(BotSettings(_env_file=None), database, session)
    descriptor = os.open(file, os.O_RDONLY)
    try:
        conversation = asyncio.create_task(converse(session, app, descriptor))
        await app.run(handle_signals=False)
        await conversation
    finally:
        os.close(descriptor)
    return out.getvalue()


@pytest.mark.usefixtures("worker")
async def test_a_story_is_printed_whole_before_the_end(sqlite: Database, tmp_path: Path) -> None:
    printed = await talk(sqlite, tmp_path, "/story Мороз и солнце\n")
    assert printed.startswith(RU.console)
    assert "Мороз и солнце Мороз и солнце Мороз и солнце.\n[1] 👍   [2] 👎" in printed


@pytest.mark.usefixtures("worker")
async def test_a_number_presses_a_button_of_what_was_shown_last(
    sqlite: Database, tmp_path: Path
) -> None:
    """The second number answers the question for consent, the third is the story's again."""
    printed = await talk(sqlite, tmp_path, "/story Кот\n2\n1\n1\n")
    places = [printed.index(text) for text in (RU.sorry, RU.ask_consent, RU.agreed)]
    assert places == sorted(places)
    async with sqlite.read() as session:
        assert (await session.scalars(select(Rating.value))).one() == 1
        assert (await session.scalars(select(User.consent))).one() is True


@pytest.mark.usefixtures("worker")
async def test_buttons_still_stand_after_another_message(sqlite: Database, tmp_path: Path) -> None:
    printed = await talk(sqlite, tmp_path, "/story Кот\n/help\n1\n>\n")
    assert RU.thanks in printed
    first, second = await jobs_of(sqlite)
    assert second.context.startswith("Кот Кот")
    assert first.prompt == "Кот"


async def test_stories_of_other_chats_are_left_alone(sqlite: Database, tmp_path: Path) -> None:
    async with sqlite.write() as session:
        await queries.remember_user(session, 777, "ru")
        job = await jobs.enqueue(
            session, user_id=777, chat_id=777, private=True, request_message_id=1, prompt="чужое"
        )
        await jobs.cancel(session, job.id, 777)
    assert RU.stopped not in await talk(sqlite, tmp_path, "/help\n")
    assert (await jobs_of(sqlite))[0].delivered_at is None


@pytest.mark.usefixtures("worker")
async def test_an_arrow_continues_the_last_story(sqlite: Database, tmp_path: Path) -> None:
    await talk(sqlite, tmp_path, "/story Кот\n>\n> Вдруг\n")
    async with sqlite.read() as session:
        first, second, third = (await session.scalars(select(Job).order_by(Job.id))).all()
    assert second.context == "Кот" + " Кот" * 6 + "."
    assert (second.prompt, third.prompt) == ("", "Вдруг")
    assert third.context.startswith(second.context)
    assert first.context == ""


@pytest.mark.usefixtures("worker")
async def test_lines_are_answered_one_after_another(sqlite: Database, tmp_path: Path) -> None:
    printed = await talk(sqlite, tmp_path, "первое\n\n/nonsense\nвторое")
    places = [printed.index(t) for t in ("первое первое", RU.unknown_command, "второе второе")]
    assert places == sorted(places)


@pytest.mark.usefixtures("worker")
async def test_a_refusal_by_the_worker_is_printed(sqlite: Database, tmp_path: Path) -> None:
    """It comes as an edit of the placeholder; once a pipe was told of no edit at all."""
    printed = await talk(sqlite, tmp_path, "ж " * 301 + "\n")
    assert RU.too_many_tokens.format(tokens=301, limit=300) in printed


async def test_quit_leaves_the_rest_unread(sqlite: Database, tmp_path: Path) -> None:
    printed = await talk(sqlite, tmp_path, "/help\n/quit\n/story Кот\n", language="en")
    assert EN.no_limit in printed
    async with sqlite.read() as session:
        assert not (await session.scalars(select(Job))).all()


@pytest.mark.usefixtures("worker")
async def test_a_story_of_an_earlier_run_is_still_delivered(
    sqlite: Database, tmp_path: Path
) -> None:
    out = io.StringIO()
    first = ConsoleSession(Screen(out), "ru")
    app = App(BotSettings(_env_file=None), sqlite, first)
    running = asyncio.create_task(app.run(handle_signals=False))
    first.read("/story Кот")
    while not await jobs_of(sqlite):
        await asyncio.sleep(0.01)
    await app.dispatcher.stop_polling()  # before the answer
    await running
    assert "Кот Кот" in await talk(sqlite, tmp_path, "/help\n")


async def jobs_of(database: Database) -> list[Job]:
    async with database.read() as session:
        return list(await session.scalars(select(Job)))


async def test_lines_come_from_a_pipe_as_they_are_written() -> None:
    reading, writing = os.pipe()
    lines = lines_of(reading)
    os.write(writing, "раз\nдв".encode())
    assert await anext(lines) == "раз"
    os.write(writing, "а\n".encode() + b"\xff\n" + "три".encode())
    assert await anext(lines) == "два"
    assert await anext(lines) == "\ufffd"
    os.close(writing)
    assert [line async for line in lines] == ["три"]
    os.close(reading)


async def test_waiting_for_a_line_never_blocks_the_loop() -> None:
    """Once a spurious wake-up led to a read without data, and every answer came a line late."""
    reading, writing = os.pipe()
    lines = lines_of(reading)
    for number in range(20):
        os.write(writing, f"{number}\n".encode())
        assert await anext(lines) == str(number)
        waiting = asyncio.ensure_future(anext(lines))
        async with asyncio.timeout(5):
            for _ in range(20):
                await asyncio.sleep(0)
        assert not waiting.done()
        os.write(writing, b"more\n")
        assert await waiting == "more"
    os.close(writing)
    os.close(reading)


async def test_the_reader_of_a_terminal_is_his_own_admin(sqlite: Database, tmp_path: Path) -> None:
    printed = await talk(sqlite, tmp_path, "/retrain\n/model\n")
    least = BotSettings(_env_file=None).retrain_min_ratings
    assert RU_ADMIN.too_few.format(minimum=least, likes=least, dislikes=least) in printed
    assert RU_ADMIN.no_versions in printed


async def test_a_retraining_is_started_by_a_number(sqlite: Database, tmp_path: Path) -> None:
    await add_votes(sqlite, [1, -1] * 50)
    printed = await talk(sqlite, tmp_path, "/retrain\n1\n/retrain\n")
    assert f"[1] {RU_ADMIN.train}   [2] {RU_ADMIN.not_now}" in printed
    assert printed.index(RU_ADMIN.requested) < printed.index(RU_ADMIN.under_way)
    row = await latest(sqlite)
    assert row is not None
    assert row.requested_by == CONSOLE_CHAT


async def test_a_report_is_printed_in_a_later_run(sqlite: Database, tmp_path: Path) -> None:
    await add_votes(sqlite, [1, -1] * 50)
    await talk(sqlite, tmp_path, "/retrain\n1\n")
    picture = tmp_path / "loss.png"
    picture.write_bytes(b"a picture")
    report = a_report(picture=str(picture))
    await finish(sqlite, await claim(sqlite), report, await add_candidate(sqlite, "1f0c"))
    out = io.StringIO()
    session = ConsoleSession(Screen(out), "ru")
    app = App(BotSettings(_env_file=None), sqlite, session)
    running = asyncio.create_task(app.run(handle_signals=False))
    async with asyncio.timeout(10):
        while (row := await latest(sqlite)) is None or row.delivered_at is None:
            await asyncio.sleep(0.02)
        session.read("3")  # leave it as a candidate
        while app.in_flight.handled < 1:
            await asyncio.sleep(0.02)
    await app.dispatcher.stop_polling()
    await running
    printed = out.getvalue()
    words = [RU_ADMIN.bits_per_character, str(picture), RU_ADMIN.stories, f"[3] {RU_ADMIN.leave}"]
    places = [printed.index(text) for text in words]
    assert places == sorted(places)
    assert RU_ADMIN.shared.format(name="pushkin 1f0c", percent=0) in printed


async def test_versions_are_turned_over_by_numbers(sqlite: Database, tmp_path: Path) -> None:
    base = await add_votes(sqlite, [1])
    await add_candidate(sqlite, "1f0c", base)
    # The list shows the candidate first: see it, activate it, be sure, roll back.
    printed = await talk(sqlite, tmp_path, "/model\n1\n1\n1\n1\n")
    assert RU_ADMIN.sure in printed
    assert RU_ADMIN.activated.format(name="pushkin 1f0c") in printed
    assert RU_ADMIN.activated.format(name="pushkin base") in printed
    assert await statuses(sqlite) == {
        "base": (VersionStatus.ACTIVE, 0.0),
        "1f0c": (VersionStatus.RETIRED, 0.0),
    }


@pytest.mark.usefixtures("worker")
async def test_a_report_is_not_taken_for_a_story(sqlite: Database, tmp_path: Path) -> None:
    """Both are messages with entities; an arrow goes on with the story."""
    await add_votes(sqlite, [1, -1] * 50)
    async with sqlite.write() as session:
        await retraining.request(
            session, requested_by=1, chat_id=CONSOLE_CHAT, language="ru", settings={}
        )
    await finish(sqlite, await claim(sqlite), a_report())
    await talk(sqlite, tmp_path, "/story Кот\n/help\n> Вдруг\n")
    last = (await jobs_of(sqlite))[-1]
    assert (last.prompt, last.context.startswith("Кот Кот")) == ("Вдруг", True)
