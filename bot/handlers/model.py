"""/model: the versions, their votes, and which of them answers readers."""

from contextlib import suppress

from aiogram import Router
from aiogram.exceptions import TelegramBadRequest
from aiogram.filters import Command
from aiogram.types import CallbackQuery, InlineKeyboardMarkup, Message

from bot import cards, keyboards
from bot.admin_texts import AdminTexts
from bot.handlers.buttons import toast
from bot.texts import Texts
from db import admin, versions
from db.models import VersionStatus
from db.session import Database
from db.versions import VersionError


def router() -> Router:
    """Return the router of the command and its buttons; for admins only."""
    router = Router(name="model")
    router.message.register(model, Command("model", ignore_case=True))
    router.callback_query.register(show_all, keyboards.Versions.filter())
    router.callback_query.register(show, keyboards.Version.filter())
    router.callback_query.register(activate, keyboards.Activate.filter())
    router.callback_query.register(roll_back, keyboards.RollBack.filter())
    router.callback_query.register(share, keyboards.Share.filter())
    return router


async def model(message: Message, admin_texts: AdminTexts, database: Database) -> None:
    """Show the versions."""
    text, markup = await _listing(database, admin_texts)
    await message.reply(text, reply_markup=markup)


async def show_all(callback: CallbackQuery, admin_texts: AdminTexts, database: Database) -> None:
    """Go back from one version to the list."""
    text, markup = await _listing(database, admin_texts)
    await _turn(callback, text, markup)


async def show(
    callback: CallbackQuery,
    callback_data: keyboards.Version,
    texts: Texts,
    admin_texts: AdminTexts,
    database: Database,
) -> None:
    """Show one version."""
    await _show(callback, callback_data.version_id, "", texts, admin_texts, database)


async def activate(
    callback: CallbackQuery,
    callback_data: keyboards.Activate,
    texts: Texts,
    admin_texts: AdminTexts,
    database: Database,
) -> None:
    """Let a version answer the readers, after one more question."""
    async with database.read() as session:
        row = await admin.version_votes(session, callback_data.version_id)
    if row is None or cards.missed_bars(row.version):
        await toast(callback, texts.old_button)
    elif not callback_data.sure:
        text = f"{cards.describe(row, admin_texts)}\n\n{admin_texts.sure}"
        await _turn(callback, text, cards.confirmation(row.version, admin_texts))
    else:
        await _activate(callback, row.version.id, texts, admin_texts, database)


async def roll_back(
    callback: CallbackQuery,
    callback_data: keyboards.RollBack,
    texts: Texts,
    admin_texts: AdminTexts,
    database: Database,
) -> None:
    """Return to a version that has answered before, at once."""
    async with database.read() as session:
        row = await admin.version_votes(session, callback_data.version_id)
    if row is None or row.version.status != VersionStatus.RETIRED:
        await toast(callback, texts.old_button)
    else:
        await _activate(callback, row.version.id, texts, admin_texts, database)


async def share(
    callback: CallbackQuery,
    callback_data: keyboards.Share,
    texts: Texts,
    admin_texts: AdminTexts,
    database: Database,
) -> None:
    """Give a candidate a part of the stories."""
    version_id, percent = callback_data.version_id, callback_data.percent
    async with database.read() as session:
        row = await admin.version_votes(session, version_id)
    if row is None or cards.missed_bars(row.version):
        await toast(callback, texts.old_button)
        return
    try:
        async with database.write() as session:
            await versions.set_share(session, version_id, percent / 100)
    except VersionError:
        await toast(callback, admin_texts.share_refused)
    else:
        said = admin_texts.shared.format(name=cards.name_of(row.version), percent=percent)
        await _show(callback, version_id, said, texts, admin_texts, database)


async def _activate(
    callback: CallbackQuery,
    version_id: int,
    texts: Texts,
    admin_texts: AdminTexts,
    database: Database,
) -> None:
    async with database.write() as session:
        await versions.activate(session, version_id)
        row = await admin.version_votes(session, version_id)
        back = await admin.predecessor(session)
    if row is None:
        await toast(callback, texts.old_button)
        return
    said = admin_texts.activated.format(name=cards.name_of(row.version))
    await _turn(callback, *cards.card(row, back, admin_texts), said)


async def _listing(
    database: Database, texts: AdminTexts
) -> tuple[str, InlineKeyboardMarkup | None]:
    async with database.read() as session:
        rows = await versions.votes_by_version(session)
        back = await admin.predecessor(session)
    return cards.listing(rows, back, texts)


async def _show(
    callback: CallbackQuery,
    version_id: int,
    said: str,
    texts: Texts,
    admin_texts: AdminTexts,
    database: Database,
) -> None:
    """Turn the message into a version's card and say what has been done."""
    async with database.read() as session:
        row = await admin.version_votes(session, version_id)
        back = await admin.predecessor(session)
    if row is None:
        await toast(callback, texts.old_button)
    else:
        await _turn(callback, *cards.card(row, back, admin_texts), said)


async def _turn(
    callback: CallbackQuery, text: str, markup: InlineKeyboardMarkup | None, said: str = ""
) -> None:
    """Turn the message under the button into another."""
    await toast(callback, said)
    if isinstance(callback.message, Message):
        with suppress(TelegramBadRequest):  # the same as before: Telegram would not change it
            await callback.message.edit_text(text, reply_markup=markup)
