"""retry_after is obeyed: by the call that was refused and by others to the same chat."""

import asyncio
from typing import Any

import pytest
from aiogram import Bot
from aiogram.exceptions import TelegramRetryAfter
from aiogram.methods import Response, SendMessage, TelegramMethod
from aiogram.types import Update

from bot.middlewares import InFlight, RetryAfter

BOT = Bot("1:none")


class Clock:
    """A clock that moves when a test says so; sleepers wake when their time has come."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time = 1000.0
        self._sleepers: list[tuple[float, asyncio.Event]] = []
        self._yield = asyncio.sleep
        monkeypatch.setattr("time.monotonic", lambda: self.time)
        monkeypatch.setattr("bot.middlewares.asyncio.sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        self._sleepers.append((self.time + seconds, woken))
        await woken.wait()

    async def advance(self, seconds: float) -> None:
        """Move the time and let whoever wakes run on."""
        await self.settle()
        self.time += seconds
        for at, woken in self._sleepers:
            if at <= self.time:
                woken.set()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(10):
            await self._yield(0)


class Telegram:
    """Refuses the first calls with 429, then answers; notes when it was called."""

    def __init__(self, clock: Clock, refusals: int) -> None:
        self.clock, self.refusals = clock, refusals
        self.calls: list[tuple[int, float]] = []

    async def __call__(self, _bot: Bot, method: TelegramMethod[Any]) -> Response[Any]:
        assert isinstance(method, SendMessage)
        self.calls.append((int(method.chat_id), self.clock.time))
        if self.refusals:
            self.refusals -= 1
            raise TelegramRetryAfter(method=method, message="Too Many Requests", retry_after=7)
        return Response(ok=True, result=True)


async def test_the_refused_call_is_sent_again_after_the_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    telegram = Telegram(clock, refusals=2)
    call = asyncio.create_task(RetryAfter()(telegram, BOT, SendMessage(chat_id=1, text="а")))
    for _ in range(15):
        await clock.advance(1)
    await call
    assert telegram.calls == [(1, 1000.0), (1, 1007.0), (1, 1014.0)]


async def test_other_calls_to_the_chat_wait_and_other_chats_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    telegram = Telegram(clock, refusals=1)
    middleware = RetryAfter()
    refused = asyncio.create_task(middleware(telegram, BOT, SendMessage(chat_id=1, text="а")))
    await clock.settle()
    waiting = asyncio.create_task(middleware(telegram, BOT, SendMessage(chat_id=1, text="б")))
    await middleware(telegram, BOT, SendMessage(chat_id=2, text="в"))
    await clock.advance(6)
    assert telegram.calls == [(1, 1000.0), (2, 1000.0)]
    await clock.advance(1)
    await asyncio.gather(refused, waiting)
    assert telegram.calls[2:] == [(1, 1007.0), (1, 1007.0)]


async def test_a_shutdown_waits_for_updates_under_way() -> None:
    in_flight = InFlight()
    release = asyncio.Event()

    async def handler(_event: object, _data: object) -> None:
        await release.wait()

    update = asyncio.create_task(in_flight(handler, Update(update_id=1), {}))
    await asyncio.sleep(0)
    drained = asyncio.create_task(in_flight.drain(5))
    await asyncio.sleep(0.01)
    assert not drained.done()
    release.set()
    await drained
    await update
    assert in_flight.handled == 1


async def test_a_shutdown_does_not_wait_for_ever() -> None:
    in_flight = InFlight()

    async def handler(_event: object, _data: object) -> None:
        await asyncio.Event().wait()

    update = asyncio.create_task(in_flight(handler, Update(update_id=1), {}))
    await asyncio.sleep(0)
    await in_flight.drain(0.01)
    assert not update.done()
    update.cancel()
