"""What surrounds every request to Telegram and every update from it."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

from aiogram import BaseMiddleware, Bot
from aiogram.client.session.middlewares.base import (
    BaseRequestMiddleware,
    NextRequestMiddlewareType,
)
from aiogram.exceptions import TelegramRetryAfter
from aiogram.methods import Response, TelegramMethod
from aiogram.methods.base import TelegramType
from aiogram.types import TelegramObject, User

from bot.admin_texts import admin_texts_for
from bot.texts import texts_for


class RetryAfter(BaseRequestMiddleware):
    """Waits as long as Telegram asks and sends again; other calls to that chat wait too."""

    def __init__(self) -> None:
        self._free_at: defaultdict[object, float] = defaultdict(
            float
        )  # chat (else method) -> monotonic time

    async def __call__(
        self,
        make_request: NextRequestMiddlewareType[TelegramType],
        bot: Bot,
        method: TelegramMethod[TelegramType],
    ) -> Response[TelegramType]:
        chat = getattr(method, "chat_id", None) or type(method)
        while True:
            while (wait := self._free_at.get(chat, 0.0) - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            self._free_at.pop(chat, None)
            try:
                return await make_request(bot, method)
            except TelegramRetryAfter as error:
                self._free_at[chat] = time.monotonic() + error.retry_after


class Language(BaseMiddleware):
    """Gives handlers ``texts`` in the reader's language, and ``admin_texts`` in the same."""

    async def __call__(
        self,
        handler: Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]],
        event: TelegramObject,
        data: dict[str, Any],
    ) -> Any:
        user: User | None = data.get("event_from_user")
        data["texts"] = texts = texts_for(user.language_code if user else None)
        data["admin_texts"] = admin_texts_for(texts.language)
        return await handler(event, data)


class InFlight(BaseMiddleware):
    """Knows the updates being handled, so that a shutdown can wait for them."""

    def __init__(self) -> None:
        self.handled = 0  # updates so far
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def __call__(
        self,
        handler: Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]],
        event: TelegramObject,
        data: dict[str, Any],
    ) -> Any:
        self._count += 1
        self._idle.clear()
        try:
            return await handler(event, data)
        finally:
            self._count -= 1
            self.handled += 1
            if not self._count:
                self._idle.set()

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 (a limit, not a scope)
        """Wait until no update is being handled, ``timeout`` seconds at most."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout)
        except TimeoutError:
            return
