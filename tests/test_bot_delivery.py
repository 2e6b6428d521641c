"""The delivery loop where time is tight: what ends while it reads, two stories in one chat."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from aiogram import Bot
from aiogram.client.session.base import BaseSession
from aiogram.methods import SendMessage, SendMessageDraft, TelegramMethod
from aiogram.types import Chat, Message
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from bot.delivery import Delivery
from db import jobs, queries
from db.models import Job, now
from db.session import Database


class Gate(BaseSession):
    """A Telegram that notes every request and answers when the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()
        self.calls: list[TelegramMethod[Any]] = []

    async def make_request(
        self,
        bot: Bot,
        method: TelegramMethod[Any],
        timeout: int | None = None,  # noqa: ARG002, ASYNC109 (aiogram's signature)
    ) -> Any:
        self.calls.append(method)
        await self.open.wait()
        if isinstance(method, SendMessage):
            chat = Chat(id=1, type="private")
            return Message(message_id=len(self.calls), date=now(), chat=chat).as_(bot)
        return True

    async def close(self) -> None:
        """Nothing to close."""

    async def stream_content(self, *_: Any, **__: Any) -> AsyncGenerator[bytes, None]:
        raise NotImplementedError
        yield b""


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def delivery(sqlite: Database, gate: Gate) -> Delivery:
    return Delivery(Bot("1:none", session=gate), sqlite)


async def add(database: Database, number: int, **values: Any) -> int:
    async with database.write() as session:
        await queries.remember_user(session, 1, "ru")
        job = await jobs.enqueue(
            session, user_id=1, chat_id=1, private=True, request_message_id=number, prompt="Кот"
        )
        await session.execute(update(Job).where(Job.id == job.id).values(**values))
    return job.id


async def finished(delivery: Delivery) -> None:
    while delivery._busy:
        await asyncio.sleep(0)


async def test_an_answer_that_was_sent_while_the_loop_read_is_not_sent_again(
    sqlite: Database, delivery: Delivery, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop read the job as undelivered, then the step that delivered it ended."""
    await add(sqlite, 1, status="failed", error="overflow")
    await delivery.look()
    while not gate.calls:
        await asyncio.sleep(0)
    read = queries.undelivered

    async def read_then_be_overtaken(session: AsyncSession, **chat: Any) -> Sequence[Job]:
        waiting = await read(session, **chat)
        gate.open.set()
        await finished(delivery)
        return waiting

    monkeypatch.setattr(queries, "undelivered", read_then_be_overtaken)
    await delivery.look()
    await finished(delivery)
    assert [type(call) for call in gate.calls] == [SendMessage]


async def test_of_two_stories_in_a_chat_only_one_grows_at_a_time(
    sqlite: Database, delivery: Delivery, gate: Gate
) -> None:
    """A chat shows one draft: two would take each other's place at every step."""
    gate.open.set()
    first = await add(sqlite, 1, status="running", partial=" спал", placeholder_id=7)
    await add(sqlite, 2, status="running", partial=" ел", placeholder_id=8)
    await delivery.look()
    await finished(delivery)
    drafts = [call for call in gate.calls if isinstance(call, SendMessageDraft)]
    assert [draft.draft_id for draft in drafts] == [first]


async def test_a_database_that_is_away_does_not_end_the_loop(
    delivery: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    async def away() -> None:
        looks.append(1)
        raise ConnectionRefusedError

    monkeypatch.setattr(delivery, "look", away)
    monkeypatch.setattr("bot.delivery.TICK", 0.001)
    running = asyncio.create_task(delivery.run())
    while len(looks) < 3:
        await asyncio.sleep(0)
    await delivery.stop()
    await running
