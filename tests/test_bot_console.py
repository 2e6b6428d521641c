"""The terminal chat: the same bot behind a session that prints."""

import asyncio
import io
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import select

from bot.app import App
from bot.config import BotSettings
from bot.console import ConsoleSession, converse, lines_of
from bot.screen import Screen
from bot.texts import EN, RU
from db import jobs, queries
from db.models import Job, Rating
from db.session import Database
from ml.engine import EchoEngine
from ml.worker import Worker


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
async def test_a_number_presses_a_button(sqlite: Database, tmp_path: Path) -> None:
    printed = await talk(sqlite, tmp_path, "/story Кот\n2\n1\n")
    assert printed.index(RU.sorry) < printed.index(RU.thanks)
    async with sqlite.read() as session:
        assert (await session.scalars(select(Rating.value))).one() == 1


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
