"""The bot in a terminal: a session that plays Telegram, so that the bot itself is the same.

A line is a message; the number of a button presses it; ``>`` replies to the last story (with
words, if any follow); ``/quit`` leaves. Lines that do not come from a terminal are answered one
after another.
"""

import asyncio
import codecs
import contextlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from aiogram import Bot
from aiogram.client.session.base import BaseSession
from aiogram.exceptions import TelegramBadRequest
from aiogram.methods import (
    AnswerCallbackQuery,
    DeleteMessage,
    EditMessageReplyMarkup,
    EditMessageText,
    GetMe,
    GetUpdates,
    SendMessage,
    SendMessageDraft,
    SendPhoto,
    TelegramMethod,
)
from aiogram.methods.base import TelegramType
from aiogram.types import (
    CallbackQuery,
    Chat,
    FSInputFile,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    Message,
    Update,
    User,
)

from bot.app import App
from bot.config import CONSOLE_CHAT
from bot.screen import Screen
from bot.texts import texts_for
from db import queries
from db.models import now
from db.session import Database

BOT_ID = 2
CHAT = Chat(id=CONSOLE_CHAT, type="private")
POLL = 0.1  # seconds


class ConsoleSession(BaseSession):
    """Answers the bot's requests as Telegram would: by showing them."""

    def __init__(self, screen: Screen, language: str) -> None:
        super().__init__()
        self._screen = screen
        self._reader = User(
            id=CONSOLE_CHAT, is_bot=False, first_name="Reader", language_code=language
        )
        self._bot = User(id=BOT_ID, is_bot=True, first_name="neuroPushkin", username="console")
        # Ids grow from run to run: a story of an earlier run can still be waiting.
        self._last_id = time.time_ns() // 1_000_000
        self._updates: asyncio.Queue[Update] = asyncio.Queue()
        self._messages: dict[int, Message] = {}
        self._with_buttons: dict[int, Message] = {}  # by id, what was shown last at the end
        self._story: Message | None = None  # the last message that can be replied to
        self.fed = 0

    def welcome(self) -> None:
        """Say what this is and how to leave."""
        self._screen.show(None, texts_for(self._reader.language_code).console)
        self._screen.ask()

    def read(self, line: str) -> bool:
        """Make an update of a line the reader wrote; False if the line was empty."""
        line = line.strip()
        if not line:
            self._screen.ask()
            return False
        self._screen.interrupt()
        buttons = self._buttons
        if line.isdecimal() and 1 <= int(line) <= len(buttons):
            self._feed(callback_query=self._press(buttons[int(line) - 1]))
        elif line.startswith(">"):
            text = line[1:].strip() or "/story"
            self._feed(message=self._message(self._reader, text, reply_to_message=self._story))
        else:
            self._feed(message=self._message(self._reader, line))
        return True

    def _feed(self, **event: Any) -> None:
        self.fed += 1
        self._updates.put_nowait(Update(update_id=self._next_id(), **event))

    def _press(self, button: InlineKeyboardButton) -> CallbackQuery:
        return CallbackQuery(
            id=str(self._next_id()),
            from_user=self._reader,
            chat_instance="console",
            message=next(reversed(self._with_buttons.values())),
            data=button.callback_data,
        )

    def _message(self, sender: User, text: str, **extra: Any) -> Message:
        message = Message(
            message_id=self._next_id(),
            date=now(),
            chat=CHAT,
            from_user=sender,
            text=text,
            **extra,
        )
        self._messages[message.message_id] = message
        return message

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    async def make_request(
        self,
        bot: Bot,
        method: TelegramMethod[TelegramType],
        timeout: int | None = None,  # noqa: ARG002, ASYNC109 (aiogram's signature)
    ) -> TelegramType:
        """Do what a method asks for; unknown ones succeed and change nothing."""
        result: Any = True
        if isinstance(method, GetUpdates):
            result = [await self._updates.get()]
        elif isinstance(method, GetMe):
            result = self._bot
        elif isinstance(method, SendMessage):
            result = self._sent(method)
        elif isinstance(method, EditMessageText):
            result = self._edited(method)
        elif isinstance(method, EditMessageReplyMarkup):
            self._mark(self._known(method), method.reply_markup)
        elif isinstance(method, DeleteMessage):
            self._with_buttons.pop(method.message_id, None)
        elif isinstance(method, SendMessageDraft):
            if self._screen.in_place:
                self._screen.show("draft", f"\n{method.text or '…'}")
        elif isinstance(method, SendPhoto):
            assert isinstance(method.photo, FSInputFile), f"picture: {method.photo}"
            self._screen.show(None, f"\n{method.caption}\n{method.photo.path}")
        elif isinstance(method, AnswerCallbackQuery) and method.text:
            self._screen.show(None, method.text)
            self._screen.ask()
        if isinstance(result, Message):
            result = result.as_(bot)
        return result  # type: ignore[no-any-return]  # decided by the method's class above

    def _sent(self, method: SendMessage) -> Message:
        markup = method.reply_markup
        assert markup is None or isinstance(markup, InlineKeyboardMarkup), f"keyboard: {markup}"
        message = self._message(self._bot, method.text)
        self._screen.rename("draft", message.message_id)
        self._show(message, markup)
        if not _passing(markup):
            # A story, though it may have been stopped; a report has other entities.
            if method.entities is not None and all(e.type == "bold" for e in method.entities):
                self._story = message
            self._screen.ask()
        return message

    def _edited(self, method: EditMessageText) -> Message:
        message = self._known(method)
        message = message.model_copy(update={"text": method.text})
        self._messages[message.message_id] = message
        # A pipe is told only how it ended: what can still be stopped will be edited again.
        passing = _passing(method.reply_markup)
        if self._screen.in_place or not passing:
            self._show(message, method.reply_markup)
        if not passing:
            self._screen.ask()
        return message

    def _known(self, method: EditMessageText | EditMessageReplyMarkup) -> Message:
        """Return the message to edit; what an earlier run printed is out of reach."""
        message = self._messages.get(method.message_id or 0)
        if message is None:
            raise TelegramBadRequest(
                method=method, message="Bad Request: message to edit not found"
            )
        return message

    def _show(self, message: Message, markup: InlineKeyboardMarkup | None) -> None:
        self._with_buttons.pop(message.message_id, None)
        text = f"\n{message.text}"
        if markup is not None:
            self._with_buttons[message.message_id] = _with(message, markup)
            text += "\n" + "   ".join(f"[{i}] {b.text}" for i, b in enumerate(self._buttons, 1))
        self._screen.show(message.message_id, text)

    def _mark(self, message: Message, markup: InlineKeyboardMarkup | None) -> None:
        """Exchange the buttons alone: the message stays where it stands."""
        if markup is None:
            self._with_buttons.pop(message.message_id, None)
        elif message.message_id in self._with_buttons:
            self._with_buttons[message.message_id] = _with(message, markup)

    @property
    def _buttons(self) -> list[InlineKeyboardButton]:
        """What the numbers stand for: the buttons of the message that was shown last."""
        message = next(reversed(self._with_buttons.values()), None)
        markup = message.reply_markup if message else None
        return [button for row in markup.inline_keyboard for button in row] if markup else []

    async def close(self) -> None:
        """Nothing to close."""

    async def stream_content(self, *_: Any, **__: Any) -> AsyncGenerator[bytes, None]:
        """There are no files in a terminal."""
        raise NotImplementedError
        yield b""


def _with(message: Message, markup: InlineKeyboardMarkup) -> Message:
    return message.model_copy(update={"reply_markup": markup})


def _passing(markup: InlineKeyboardMarkup | None) -> bool:
    """Whether a message with these buttons is going to be edited by itself: it can be stopped."""
    rows = markup.inline_keyboard if markup else []
    data = [button.callback_data or "" for row in rows for button in row]
    return any(each.startswith(("stop:", "halt:")) for each in data)


async def lines_of(descriptor: int) -> AsyncIterator[str]:
    """Yield the lines of standard input without blocking the loop and without a thread."""
    loop = asyncio.get_running_loop()
    decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
    chunks: asyncio.Queue[bytes] = asyncio.Queue()

    def take() -> None:
        # Here and nowhere else: a read that the loop has not called for would block it.
        chunks.put_nowait(os.read(descriptor, 65536))

    try:
        loop.add_reader(descriptor, take)
        waits = True
    except PermissionError:  # a regular file is always ready
        waits = False
    rest = ""
    try:
        while True:
            if not waits:
                take()
            chunk = await chunks.get()
            *lines, rest = (rest + decode(chunk, final=not chunk)).split("\n")
            for line in lines:
                yield line
            if not chunk:
                break
    finally:
        if waits:
            loop.remove_reader(descriptor)
    if rest:
        yield rest


async def converse(session: ConsoleSession, app: App, descriptor: int) -> None:
    """Feed the reader's lines to the bot until they end, then let the last answers arrive."""

    async def settled() -> None:
        while app.in_flight.handled < session.fed or await _waiting(app.database):
            await asyncio.sleep(POLL)

    session.welcome()
    async for line in lines_of(descriptor):
        if line.strip() == "/quit":
            break
        if session.read(line) and not os.isatty(descriptor):
            await settled()
    else:
        await settled()
    with contextlib.suppress(RuntimeError):  # a signal has stopped it already
        await app.dispatcher.stop_polling()


async def _waiting(database: Database) -> int:
    async with database.read() as session:
        return await queries.waiting_jobs(session, CONSOLE_CHAT)
