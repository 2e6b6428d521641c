"""A whole bot in the test's own process: a local Bot API server, the app, an echo worker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from bot.app import App
from bot.config import BotSettings
from db import queries
from db.session import Database
from ml.engine import EchoEngine, Engine
from ml.worker import Worker
from tests.telegram_server import Answer, Message, TelegramServer, User

READER_ID = 100


@dataclass
class Stand:
    """The three sides of the bot, and short words for what tests do with them."""

    server: TelegramServer
    app: App
    database: Database
    reader: User
    workers: dict[Worker, asyncio.Task[None]] = field(default_factory=dict)

    def messages(self, chat_id: int = READER_ID) -> list[Message]:
        """Return the live messages of a chat."""
        return self.server.messages(chat_id)

    def last(self, chat_id: int = READER_ID) -> Message:
        """Return the newest live message of a chat."""
        return self.messages(chat_id)[-1]

    async def answer(self, text: str, chat_id: int = READER_ID) -> Message:
        """Wait until the bot's newest message contains ``text``; return it."""

        def found() -> Message | None:
            said = [m for m in self.messages(chat_id) if m.from_bot]
            return said[-1] if said and text in said[-1].text else None

        message = await self.server.wait_for(found, what=f"an answer with {text!r}")
        assert message is not None
        return message

    async def toast(self, callback_id: str) -> str:
        """Wait for the answer to a tap and return its text."""

        def found() -> Answer | None:
            return next((a for a in self.server.answers if a.id == callback_id), None)

        answer = await self.server.wait_for(found, what="a toast")
        assert answer is not None
        return answer.text

    async def story(self, prompt: str = "Мороз и солнце") -> Message:
        """Ask for a story and wait for its final message, the one with two buttons."""
        await self.server.say(self.reader, f"/story {prompt}")
        return await self.rated_message()

    async def _undelivered(self) -> int:
        async with self.database.read() as session:
            return len(await queries.undelivered(session))

    async def rated_message(self, chat_id: int = READER_ID) -> Message:
        """Wait until the newest message can be rated and nobody waits any more; return it."""

        def found() -> Message | None:
            last = self.messages(chat_id)[-1] if self.messages(chat_id) else None
            data = [button["callback_data"] for button in last.buttons] if last else []
            return last if data and all(each.startswith("rate:") for each in data) else None

        message = await self.server.wait_for(found, what="a story that can be rated")
        assert message is not None
        async with asyncio.timeout(10):
            while await self._undelivered():  # it is noted a moment after it is sent
                await asyncio.sleep(0.01)
        return message

    async def alone(self, story: Message, chat_id: int = READER_ID) -> None:
        """Wait until the story is the only message of the bot: its placeholder is gone."""
        await self.server.wait_for(
            lambda: [m.text for m in self.messages(chat_id) if m.from_bot] == [story.text],
            what="the placeholder's end",
        )

    def work(self, engine: Engine | None = None, slots: int = 4) -> Worker:
        """Start a worker beside the bot."""
        worker = Worker(self.database, engine or EchoEngine(words=12), slots=slots)
        self.workers[worker] = asyncio.create_task(worker.run())
        return worker


@asynccontextmanager
async def open_stand(database: Database, **settings: Any) -> AsyncIterator[Stand]:
    """Run the bot against a local server; no worker yet."""
    async with TelegramServer(token="42:TEST") as server:
        values = {"bot_token": "42:TEST", "telegram_api_url": server.url} | settings
        app = App(BotSettings(_env_file=None, **values), database)
        stand = Stand(server, app, database, server.user(READER_ID))
        running = asyncio.create_task(app.run(handle_signals=False))
        polled = lambda: any(c.method == "setMyCommands" for c in server.calls)  # noqa: E731
        await server.wait_for(polled, what="the bot's start")
        try:
            yield stand
        finally:
            for worker, task in stand.workers.items():
                await worker.give_back()
                await task
            await app.dispatcher.stop_polling()
            await running
