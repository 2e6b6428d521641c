"""Shows an admin how his retraining goes, and what came out of it.

One loop looks at every retraining whose admin still waits; what it must remember stands in the
database, so a restarted bot goes on where it was. A progress message is edited while the
retraining runs, the end comes as messages of its own. Killed in between, it sends them again.
"""

import asyncio
import logging
import time
from dataclasses import dataclass, field

from aiogram import Bot
from aiogram.exceptions import TelegramAPIError, TelegramBadRequest, TelegramForbiddenError
from aiogram.types import FSInputFile, InlineKeyboardMarkup

from bot import cards, keyboards, report
from bot.admin_texts import AdminTexts, admin_texts_for
from bot.report import Piece
from db import admin, retraining
from db.models import Retraining, RetrainingStatus
from db.session import UNAVAILABLE, Database

TICK = 1.0  # seconds between looks at the database
EDIT_EVERY = 4.0  # seconds; a group bears 20 messages a minute
TROUBLE_PAUSE = 0.5  # seconds before a failed step is tried again, doubled each time
TROUBLE_TRIES = 8  # a message that Telegram refuses for so long is left out
BUG_PAUSE = 30.0  # seconds
LONGEST_STEP = 10.0  # seconds a step has to end at a shutdown

log = logging.getLogger("progress")


@dataclass
class Shown:
    """What the admin of one retraining has seen."""

    text: str | None = None
    sent: int = 0  # messages of the end
    not_before: float = 0.0  # monotonic time of the next step
    troubles: int = 0


@dataclass
class Progress:
    """The loop; ``wake`` makes it look at once."""

    bot: Bot
    database: Database
    only: int | None = None  # a chat: no other chat's retrainings are ours
    but: int | None = None  # a chat: its retrainings are not ours
    _shown: dict[int, Shown] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _looking: asyncio.Task[None] | None = None
    _stopping: bool = False

    @property
    def stopping(self) -> bool:
        """Whether the loop was asked to end."""
        return self._stopping

    def wake(self) -> None:
        """Look at the database now: a retraining has come or changed."""
        self._wake.set()

    async def run(self) -> None:
        """Report until stopped."""
        while not self._stopping:
            self._looking = asyncio.create_task(self.look())
            await asyncio.wait([self._looking])
            if not self._looking.cancelled():
                try:
                    self._looking.result()
                except UNAVAILABLE as error:
                    log.warning("the database does not answer: %s", error)
            try:
                await asyncio.wait_for(self._wake.wait(), TICK)
            except TimeoutError:
                continue
            self._wake.clear()

    async def stop(self) -> None:
        """End the loop; steps under way are finished."""
        self._stopping = True
        self.wake()
        if self._looking:
            await asyncio.wait([self._looking], timeout=LONGEST_STEP)
            self._looking.cancel()

    async def look(self) -> None:
        """Take a step for every retraining that needs one."""
        async with self.database.read() as session:
            waiting = [
                row
                for row in await retraining.undelivered(session)
                if self.only in (None, row.chat_id) and row.chat_id != self.but
            ]
        for gone in self._shown.keys() - {row.id for row in waiting}:
            del self._shown[gone]
        for row in waiting:
            self._shown.setdefault(row.id, Shown())
        due = [row for row in waiting if self._due(row)]
        ends = await asyncio.gather(*(self._step(row) for row in due), return_exceptions=True)
        for row, end in zip(due, ends, strict=True):
            if isinstance(end, Exception):  # a bug of ours: not so fast
                log.error("retraining %d", row.id, exc_info=end)
                self._shown[row.id].not_before = time.monotonic() + BUG_PAUSE

    def _due(self, row: Retraining) -> bool:
        """Whether a step may be taken; the end does not wait for the next edit's time."""
        shown = self._shown[row.id]
        ended = row.status not in retraining.UNDER_WAY and not shown.troubles
        return ended or time.monotonic() >= shown.not_before

    async def _step(self, row: Retraining) -> None:
        """Show one retraining's present state; a refusal of Telegram is survived."""
        shown = self._shown[row.id]
        texts = admin_texts_for(row.language)
        try:
            if row.status in retraining.UNDER_WAY:
                await self._grow(row, shown, texts)
            else:
                await self._end(row, shown, texts)
            shown.troubles = 0
        except (TelegramAPIError, *UNAVAILABLE) as error:
            shown.troubles += 1
            shown.not_before = time.monotonic() + TROUBLE_PAUSE * 2 ** min(shown.troubles, 5)
            log.warning("retraining %d, try %d: %s", row.id, shown.troubles, error)
            refused = isinstance(error, TelegramBadRequest | TelegramForbiddenError)
            over = row.status not in retraining.UNDER_WAY
            if over and refused and shown.troubles >= TROUBLE_TRIES:
                shown.sent += 1
                shown.troubles = 0

    async def _grow(self, row: Retraining, shown: Shown, texts: AdminTexts) -> None:
        """Say how far it is, in one message that is edited."""
        text = report.progress(row, texts)
        if text == shown.text:
            return
        markup = keyboards.halt(row.id, texts)
        if row.message_id is None or not await self._edit(row, text, markup):
            message = await self.bot.send_message(row.chat_id, text, reply_markup=markup)
            async with self.database.write() as session:
                await retraining.set_message(session, row.id, message.message_id)
        shown.text = text
        shown.not_before = time.monotonic() + EDIT_EVERY

    async def _end(self, row: Retraining, shown: Shown, texts: AdminTexts) -> None:
        """Send what came out, each message once; note that the admin knows."""
        pieces = report.outcome(row, texts)
        while shown.sent < len(pieces):
            await self._send(row, pieces[shown.sent])
            shown.sent += 1
        if shown.sent == len(pieces):
            await self._decide(row, texts)
            await self._close(row)
            shown.sent += 1
        async with self.database.write() as session:
            await retraining.mark_delivered(session, row.id)

    async def _send(self, row: Retraining, piece: Piece) -> None:
        text, entities = piece.part.text, piece.part.entities
        if piece.picture is None:
            await self.bot.send_message(row.chat_id, text, entities=entities)
        else:
            await self.bot.send_photo(row.chat_id, FSInputFile(piece.picture), caption=text)

    async def _decide(self, row: Retraining, texts: AdminTexts) -> None:
        """Offer what can be done with the new version, if there is one."""
        if row.status != RetrainingStatus.DONE or row.version_id is None:
            return
        async with self.database.read() as session:
            made = await admin.version_votes(session, row.version_id)
            back = await admin.predecessor(session)
        assert made is not None, f"retraining {row.id} names version {row.version_id}"
        text, markup = cards.decision(made, back, texts)
        await self.bot.send_message(row.chat_id, text, reply_markup=markup)

    async def _close(self, row: Retraining) -> None:
        """Take the button away from the progress message."""
        if row.message_id is None:
            return
        try:
            await self.bot.edit_message_reply_markup(
                chat_id=row.chat_id, message_id=row.message_id, reply_markup=None
            )
        except TelegramAPIError as error:  # it stays: a blemish, not a loss
            log.info("retraining %d: %s", row.id, error.message)

    async def _edit(self, row: Retraining, text: str, markup: InlineKeyboardMarkup) -> bool:
        """Edit the progress message; False if it is gone."""
        try:
            await self.bot.edit_message_text(
                text, chat_id=row.chat_id, message_id=row.message_id, reply_markup=markup
            )
        except TelegramBadRequest as error:
            if "not modified" in error.message:
                return True
            if "not found" in error.message or "can't be edited" in error.message:
                return False
            raise
        return True
