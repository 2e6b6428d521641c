"""The buttons: votes and Stop, which belong to the reader who asked; and Telegram's own Stop."""

from contextlib import suppress

from aiogram import Router
from aiogram.exceptions import TelegramBadRequest
from aiogram.types import CallbackQuery, Message, MessageGenerationStopped

from bot import keyboards
from bot.delivery import Delivery
from bot.texts import Texts
from db import admin, jobs, queries
from db.models import Job
from db.session import Database


def router() -> Router:
    """Return the router of every button."""
    router = Router(name="buttons")
    router.callback_query.register(rate, keyboards.Rate.filter())
    router.callback_query.register(stop, keyboards.Stop.filter())
    router.callback_query.register(unknown)
    router.stopped_message_generation.register(native_stop)
    return router


async def rate(
    callback: CallbackQuery, callback_data: keyboards.Rate, texts: Texts, database: Database
) -> None:
    """Store a vote and mark the chosen button; after the first one ask for consent."""
    generation_id, liked = callback_data.generation_id, callback_data.liked
    reader_id = callback.from_user.id
    async with database.write() as session:
        rated = await queries.rate(session, generation_id, reader_id, 1 if liked else -1)
        own = rated is not None and rated.owner_id == reader_id
        ask = own and await admin.note_asked(session, reader_id)
    if rated is None:
        await toast(callback, texts.gone)
    elif not own:
        await toast(callback, texts.not_yours)
    else:
        await toast(callback, texts.thanks if liked else texts.sorry)
        if isinstance(callback.message, Message):
            with suppress(TelegramBadRequest):  # two taps at once: the second changes nothing
                markup = keyboards.rating(generation_id, chosen=liked)
                await callback.message.edit_reply_markup(reply_markup=markup)
            if ask:
                markup = keyboards.consent(reader_id, texts, True, False)
                await callback.message.reply(texts.ask_consent, reply_markup=markup)


async def stop(
    callback: CallbackQuery,
    callback_data: keyboards.Stop,
    texts: Texts,
    database: Database,
    delivery: Delivery,
) -> None:
    """Cancel the job behind the button."""
    async with database.write() as session:
        cancelled = await jobs.cancel(session, callback_data.job_id, callback.from_user.id)
        job = await session.get(Job, callback_data.job_id)
    if cancelled:
        delivery.wake()
        await toast(callback, texts.stopping)
    elif job is None:
        await toast(callback, texts.gone)
    elif job.user_id != callback.from_user.id:
        await toast(callback, texts.not_yours)
    else:
        await toast(callback, texts.too_late)


async def native_stop(
    event: MessageGenerationStopped, database: Database, delivery: Delivery
) -> None:
    """Cancel the job whose draft was stopped; drafts live in private chats, chat = reader."""
    async with database.write() as session:
        await jobs.cancel(session, event.draft_id, event.chat.id)
    delivery.wake()


async def unknown(callback: CallbackQuery, texts: Texts) -> None:
    """Answer a button that is not, or no longer, ours."""
    await toast(callback, texts.old_button)


async def toast(callback: CallbackQuery, text: str) -> None:
    """Show a short note; a query that is too old to be answered is let go."""
    with suppress(TelegramBadRequest):
        await callback.answer(text)
