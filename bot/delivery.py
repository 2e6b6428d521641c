"""Brings the queue to the chats: placeholders, growing text, the final message.

One loop looks at every job whose reader still waits and shows what has changed; all it must
remember stands in the database, so a restarted bot goes on where it was. In private chats the
text grows in a native draft (ephemeral, with its own Stop) and ends in a message; in groups, and
where a draft fails, the placeholder itself is edited.
"""

import asyncio
import logging
import time
from dataclasses import dataclass, field
from functools import partial

from aiogram import Bot
from aiogram.exceptions import (
    TelegramAPIError,
    TelegramBadRequest,
    TelegramForbiddenError,
    TelegramMigrateToChat,
    TelegramNotFound,
)
from aiogram.types import InlineKeyboardMarkup, ReplyParameters

from bot import keyboards
from bot.formatting import Part, story_parts
from bot.texts import Texts, texts_for
from db import jobs, queries
from db.models import Job, JobStatus
from db.session import UNAVAILABLE, Database

TICK = 0.5  # seconds between looks at the database
DRAFT_EVERY = 0.9  # seconds between drafts of one story
DRAFT_REFRESH = 20.0  # an unchanged draft would vanish after 30 seconds
EDIT_EVERY = 1.2  # about a message a second in a private chat
GROUP_EDIT_EVERY = 3.2  # 20 messages a minute in a group
TROUBLE_PAUSE = 0.5  # seconds before a failed step is tried again, doubled each time
LONGEST_STEP = 10.0  # seconds a step has to end at a shutdown; retry_after may ask for more
BUG_PAUSE = 30.0  # seconds
TROUBLE_TRIES = 8  # an answer that Telegram refuses for so long is given up

log = logging.getLogger("delivery")


@dataclass
class Shown:
    """What the reader of one job sees at the moment."""

    text: str | None = None
    place: int | None = None
    placeholder: str | None = None
    draft_works: bool = True
    drafted_at: float = 0.0  # monotonic
    not_before: float = 0.0  # monotonic time of the next try after a trouble
    troubles: int = 0


@dataclass
class Delivery:
    """The loop; ``wake`` makes it look at once."""

    bot: Bot
    database: Database
    only: int | None = None  # a chat: no other chat's jobs are ours
    but: int | None = None  # a chat: its jobs are not ours
    _shown: dict[int, Shown] = field(default_factory=dict)
    _busy: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    _turns: dict[int, float] = field(default_factory=dict)  # chat -> monotonic time of the next
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _stopping: bool = False

    @property
    def stopping(self) -> bool:
        """Whether the loop was asked to end."""
        return self._stopping

    def wake(self) -> None:
        """Look at the database now: a job has come or changed."""
        self._wake.set()

    async def run(self) -> None:
        """Deliver until stopped."""
        while not self._stopping:
            try:
                await self.look()
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
        if self._busy:
            await asyncio.wait(self._busy.values(), timeout=LONGEST_STEP)

    async def look(self) -> None:
        """Start a step for every job that needs one and has none under way."""
        # A step that ends while we read has changed its job: what we read of it is old.
        busy = set(self._busy)
        async with self.database.read() as session:
            waiting = await queries.undelivered(session, only=self.only, but=self.but)
            places = await jobs.places(session)
        if self._stopping:
            return
        for job in waiting:
            shown = self._shown.setdefault(job.id, Shown())
            if job.id in busy or time.monotonic() < shown.not_before:
                continue
            task = asyncio.create_task(self._step(job, shown, places.get(job.id)))
            self._busy[job.id] = task
            task.add_done_callback(partial(self._free, job.id))
        for job_id in self._shown.keys() - {job.id for job in waiting} - self._busy.keys():
            del self._shown[job_id]
        for chat_id in self._turns.keys() - {job.chat_id for job in waiting}:
            del self._turns[chat_id]

    def _turn(self, job: Job, *, draft: bool = False) -> bool:
        """Take the chat's turn for a passing change, if it has come; the oldest job comes first.

        Placeholders and final messages do not wait for a turn, only for ``retry_after``.
        """
        if time.monotonic() < self._turns.get(job.chat_id, 0.0):
            return False
        pause = DRAFT_EVERY if draft else EDIT_EVERY if job.private else GROUP_EDIT_EVERY
        self._turns[job.chat_id] = time.monotonic() + pause
        return True

    def _free(self, job_id: int, task: asyncio.Task[None]) -> None:
        self._busy.pop(job_id, None)
        if not task.cancelled() and (error := task.exception()):  # a bug of ours: not so fast
            log.error("job %d", job_id, exc_info=error)
            self._shown[job_id].not_before = time.monotonic() + BUG_PAUSE

    async def _step(self, job: Job, shown: Shown, place: int | None) -> None:
        """Show one job's present state; a refusal of Telegram is survived."""
        texts = texts_for(job.user.language)
        try:
            if job.status in jobs.FINISHED:
                await self._final(job, shown, texts)
            elif place is not None:
                await self._place(job, shown, texts, place)
            else:
                await self._grow(job, shown, texts)
            shown.troubles = 0
        except TelegramForbiddenError as error:  # the reader has blocked the bot
            log.info("job %d: %s", job.id, error.message)
            await self._give_up(job)
        except (TelegramAPIError, *UNAVAILABLE) as error:
            shown.troubles += 1
            shown.not_before = time.monotonic() + TROUBLE_PAUSE * 2 ** min(shown.troubles, 5)
            log.warning("job %d, try %d: %s", job.id, shown.troubles, error)
            final = isinstance(error, TelegramBadRequest | TelegramMigrateToChat)
            if final and shown.troubles >= TROUBLE_TRIES:
                await self._give_up(job)

    async def _give_up(self, job: Job) -> None:
        """Let the answer go: nobody can be reached there."""
        async with self.database.write() as session:
            await jobs.cancel(session, job.id, job.user_id)
            await jobs.mark_delivered(session, job.id, None)

    async def _place(self, job: Job, shown: Shown, texts: Texts, place: int) -> None:
        """Tell the reader his place in the queue, at Fibonacci numbers only, never a worse one."""
        place = min(place, shown.place or place)
        if shown.placeholder is not None and (place == shown.place or not _is_fibonacci(place)):
            return
        if shown.placeholder is not None and not self._turn(job):
            return
        shown.place = place
        text = texts.queued_next if place == 1 else texts.queued.format(place=place)
        await self._hold(job, shown, texts, text)

    async def _grow(self, job: Job, shown: Shown, texts: Texts) -> None:
        """Show the text so far."""
        drafting = job.private and shown.draft_works
        if job.placeholder_id is None or (drafting and shown.placeholder != texts.writing):
            await self._hold(job, shown, texts, texts.writing)
        stale = drafting and time.monotonic() - shown.drafted_at > DRAFT_REFRESH
        if not job.partial.strip() or (job.partial == shown.text and not stale):
            return
        if not self._turn(job, draft=drafting):
            return
        part = story_parts(job.prompt, job.partial)[-1]
        if drafting and not await self._draft(job, part):
            shown.draft_works = drafting = False
        if not drafting:
            await self._edit(job, part, keyboards.stop(job.id, texts))
            shown.placeholder = part.text
        shown.text = job.partial
        shown.drafted_at = time.monotonic()

    async def _hold(self, job: Job, shown: Shown, texts: Texts, text: str) -> None:
        """Send the placeholder, or change its words."""
        if shown.placeholder == text:
            return
        markup = keyboards.stop(job.id, texts)
        if job.placeholder_id is None:
            message_id = await self._send(job, Part(text, []), markup, reply=not job.private)
            async with self.database.write() as session:
                await queries.set_placeholder(session, job.id, message_id)
            job.placeholder_id = message_id
        else:
            await self._edit(job, Part(text, []), markup)
        shown.placeholder = text

    async def _final(self, job: Job, shown: Shown, texts: Texts) -> None:
        """Send the answer, note that it was, and tidy up."""
        markup = None
        if job.status == JobStatus.DONE:
            generation = job.generations[0]
            parts = story_parts(job.prompt, generation.text)
            markup = keyboards.rating(generation.id)
        elif job.status == JobStatus.CANCELLED:
            said = f"{job.partial.rstrip()}\n\n{texts.stopped}" if job.partial.strip() else ""
            parts = story_parts(job.prompt, said) if said else [Part(texts.stopped, [])]
        else:
            parts = [Part(_reason(job, texts), [])]
        # A draft gives way to a real message only; a placeholder can become the answer itself.
        drafted = job.private and shown.draft_works and bool(markup or job.partial.strip())
        message_id: int | None = None
        if job.placeholder_id is not None and not drafted:
            whole = len(parts) == 1
            if await self._edit(job, parts[0], markup if whole else None):
                message_id = job.placeholder_id
                parts = parts[1:]
        for part in parts:
            last = part is parts[-1]
            reply = not job.private and message_id is None
            message_id = await self._send(job, part, markup if last else None, reply=reply)
        async with self.database.write() as session:
            await jobs.mark_delivered(session, job.id, message_id)
        if drafted and job.placeholder_id is not None:
            try:
                await self.bot.delete_message(job.chat_id, job.placeholder_id)
            except TelegramAPIError as error:  # it stays: a blemish, not a loss
                log.info("job %d: %s", job.id, error.message)

    async def _draft(self, job: Job, part: Part) -> bool:
        """Show the text as a native draft; False where Telegram has none for this chat."""
        try:
            await self.bot.send_message_draft(
                chat_id=job.chat_id,
                draft_id=job.id,
                text=part.text,
                entities=part.entities,
                can_stop=True,
                keep_on_stop=True,
            )
        except (TelegramBadRequest, TelegramNotFound) as error:
            log.info("job %d: no drafts: %s", job.id, error.message)
            return False
        return True

    async def _send(
        self, job: Job, part: Part, markup: InlineKeyboardMarkup | None, *, reply: bool
    ) -> int:
        """Send a message and return its id."""
        message = await self.bot.send_message(
            job.chat_id,
            part.text,
            entities=part.entities,
            reply_markup=markup,
            reply_parameters=ReplyParameters(
                message_id=job.request_message_id, allow_sending_without_reply=True
            )
            if reply
            else None,
        )
        return message.message_id

    async def _edit(self, job: Job, part: Part, markup: InlineKeyboardMarkup | None) -> bool:
        """Edit the placeholder; False if it is gone."""
        try:
            await self.bot.edit_message_text(
                part.text,
                chat_id=job.chat_id,
                message_id=job.placeholder_id,
                entities=part.entities,
                reply_markup=markup,
            )
        except TelegramBadRequest as error:
            if "not modified" in error.message:
                return True
            if "not found" in error.message or "can't be edited" in error.message:
                return False
            raise
        return True


def _reason(job: Job, texts: Texts) -> str:
    """Say why a job failed, in the reader's words."""
    match (job.error or "").split():
        case ["prompt_too_long", tokens, limit]:
            return texts.too_many_tokens.format(tokens=tokens, limit=limit)
    return texts.failed


def _is_fibonacci(number: int) -> bool:
    a, b = 1, 2
    while a < number:
        a, b = b, a + b
    return a == number
