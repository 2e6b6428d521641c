"""/privacy: what is kept of a reader, and whether his votes and stories may train the model."""

from contextlib import suppress

from aiogram import F, Router
from aiogram.exceptions import TelegramBadRequest
from aiogram.filters import Command
from aiogram.types import CallbackQuery, Message, User

from bot import keyboards
from bot.handlers.buttons import toast
from bot.texts import Texts
from db import models, queries
from db.session import Database


def router() -> Router:
    """Return the router of the command and of the buttons of consent."""
    router = Router(name="privacy")
    command = Command("privacy", ignore_case=True)
    router.message.register(privacy, command, F.from_user.as_("reader"))
    router.callback_query.register(consent, keyboards.Consent.filter())
    return router


async def privacy(message: Message, reader: User, texts: Texts, database: Database) -> None:
    """Say what is kept, and offer to change the consent."""
    async with database.read() as session:
        user = await session.get(models.User, reader.id)
    agreed = bool(user and user.consent)
    text = texts.privacy.format(consent=texts.privacy_yes if agreed else texts.privacy_no)
    await message.reply(text, reply_markup=keyboards.consent(reader.id, texts, not agreed))


async def consent(
    callback: CallbackQuery, callback_data: keyboards.Consent, texts: Texts, database: Database
) -> None:
    """Note the reader's answer, which only he can give."""
    reader_id, agreed = callback_data.reader_id, callback_data.agreed
    if reader_id != callback.from_user.id:
        await toast(callback, texts.not_your_question)
        return
    async with database.write() as session:
        await queries.remember_user(session, reader_id, texts.language)
        await queries.set_consent(session, reader_id, agreed)
    await toast(callback, texts.thanks)
    if isinstance(callback.message, Message):
        with suppress(TelegramBadRequest):  # two taps at once: the second changes nothing
            await callback.message.edit_text(texts.agreed if agreed else texts.refused)
