"""Whatever nobody else took, and whatever went wrong."""

import logging
import time

from aiogram import Bot, F, Router
from aiogram.enums import ChatType
from aiogram.exceptions import TelegramAPIError
from aiogram.types import ErrorEvent, Message

from bot.texts import Texts, texts_for

ADMINS_EVERY = 60.0  # seconds between notices to the admins

log = logging.getLogger("bot")


def router(admin_ids: list[int]) -> Router:
    """Return the router that comes last; ``admin_ids`` are told of unexpected errors."""
    router = Router(name="fallback")
    private = F.chat.type == ChatType.PRIVATE
    router.message.register(unknown_command, private, F.text.startswith("/"))
    router.message.register(text_only, private)
    router.errors.register(ErrorReport(admin_ids))
    return router


async def unknown_command(message: Message, texts: Texts) -> None:
    """Answer a command that does not exist."""
    await message.reply(texts.unknown_command)


async def text_only(message: Message, texts: Texts) -> None:
    """Answer stickers, voices, pictures and the like."""
    await message.reply(texts.text_only)


class ErrorReport:
    """Logs an unexpected error, tells the reader politely and the admins briefly."""

    def __init__(self, admin_ids: list[int]) -> None:
        self._admin_ids = admin_ids
        self._quiet_until = 0.0

    async def __call__(self, event: ErrorEvent, bot: Bot) -> bool:
        error, update = event.exception, event.update
        if isinstance(error, TelegramAPIError):  # Telegram refused or is away: no bug of ours
            log.warning("update %d: %s", update.update_id, error)
            return True
        log.error("update %d", update.update_id, exc_info=error)
        try:
            if message := update.message:
                reader = message.from_user
                language = reader.language_code if reader else None
                await message.reply(texts_for(language).trouble)
            elif callback := update.callback_query:
                await callback.answer(texts_for(callback.from_user.language_code).trouble)
            if time.monotonic() >= self._quiet_until:
                self._quiet_until = time.monotonic() + ADMINS_EVERY
                for admin_id in self._admin_ids:
                    await bot.send_message(admin_id, f"⚠️ {type(error).__name__}: {error}"[:1000])
        except TelegramAPIError as refusal:
            log.warning("update %d: %s", update.update_id, refusal)
        return True
