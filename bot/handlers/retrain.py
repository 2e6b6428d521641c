"""/retrain: what the votes are, the wish to train on them, the wish to stop."""

from contextlib import suppress

from aiogram import Router
from aiogram.exceptions import TelegramBadRequest
from aiogram.filters import Command
from aiogram.types import CallbackQuery, Message
from sqlalchemy.ext.asyncio import AsyncSession

from bot import keyboards, report
from bot.admin_texts import AdminTexts
from bot.handlers.buttons import toast
from bot.progress import Progress
from db import admin, retraining
from db.admin import VoteReport
from db.models import Retraining
from db.session import Database


def router() -> Router:
    """Return the router of the command and its buttons; for admins only."""
    router = Router(name="retrain")
    router.message.register(retrain, Command("retrain", ignore_case=True))
    router.callback_query.register(answer, keyboards.Train.filter())
    router.callback_query.register(halt, keyboards.Halt.filter())
    return router


async def retrain(
    message: Message, admin_texts: AdminTexts, database: Database, min_ratings: int
) -> None:
    """Show the votes and ask whether to train; say why not, if it cannot be."""
    async with database.read() as session:
        last = await retraining.latest(session)
        votes = await admin.vote_report(session)
    if last and last.status in retraining.UNDER_WAY:
        await message.reply(state(last, admin_texts))
        return
    counted = admin_texts.votes.format(**vars(votes))
    if refusal := objection(votes, min_ratings, admin_texts):
        await message.reply(f"{counted}\n\n{refusal}")
    else:
        markup = keyboards.train(admin_texts)
        await message.reply(f"{counted}\n\n{admin_texts.ask}", reply_markup=markup)


async def answer(
    callback: CallbackQuery,
    callback_data: keyboards.Train,
    admin_texts: AdminTexts,
    database: Database,
    progress: Progress,
    min_ratings: int,
) -> None:
    """Ask for a retraining, or let it be."""
    message = callback.message
    if not isinstance(message, Message):
        await toast(callback, "")  # too old for Telegram to say which it was
        return
    refusal: str | None = admin_texts.put_off
    if callback_data.yes:
        async with database.write() as session:
            refusal = await _request(
                session, callback.from_user.id, message, admin_texts, min_ratings
            )
    if refusal is None:
        await toast(callback, admin_texts.requested)
        progress.wake()
        return
    await toast(callback, "")
    with suppress(TelegramBadRequest):  # two taps at once: the second changes nothing
        await message.edit_text(refusal)


async def _request(
    session: AsyncSession, admin_id: int, message: Message, texts: AdminTexts, minimum: int
) -> str | None:
    """Ask for a retraining whose progress this message will show; return why not, if not."""
    if refusal := objection(await admin.vote_report(session), minimum, texts):
        return refusal
    asked = await retraining.request(
        session,
        requested_by=admin_id,
        chat_id=message.chat.id,
        language=texts.language,
        settings={"minimum": minimum},
    )
    if asked is None:
        under_way = await retraining.latest(session)
        assert under_way is not None, "nothing is under way, and yet it was refused"
        return state(under_way, texts)
    await retraining.set_message(session, asked.id, message.message_id)
    return None


async def halt(
    callback: CallbackQuery,
    callback_data: keyboards.Halt,
    admin_texts: AdminTexts,
    database: Database,
    progress: Progress,
) -> None:
    """Cancel a retraining; any admin may."""
    async with database.write() as session:
        cancelled = await retraining.cancel(session, callback_data.retraining_id)
    progress.wake()
    await toast(callback, admin_texts.cancelling if cancelled else admin_texts.over)


def objection(votes: VoteReport, minimum: int, texts: AdminTexts) -> str | None:
    """Say why these votes cannot train a model; None if they can."""
    likes, dislikes = (max(0, minimum - count) for count in (votes.liked, votes.disliked))
    if likes or dislikes:
        return texts.too_few.format(minimum=minimum, likes=likes, dislikes=dislikes)
    return None


def state(row: Retraining, texts: AdminTexts) -> str:
    """Say that a retraining is under way, and how far it is."""
    return f"{texts.under_way}\n\n{report.progress(row, texts)}"
