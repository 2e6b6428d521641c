"""The admins' door: to everybody else their commands and buttons do not exist."""

import logging

from aiogram import Bot, F, Router
from aiogram.dispatcher.event.bases import SkipHandler
from aiogram.exceptions import TelegramBadRequest
from aiogram.filters import CommandStart
from aiogram.types import BotCommand, BotCommandScopeChat, Message

from bot import admin_texts, texts
from bot.handlers import model, retrain

log = logging.getLogger("bot")


def router(admin_ids: list[int]) -> Router:
    """Return the router that lets only ``admin_ids`` in; it must stand before the readers'."""
    router = Router(name="admin")
    admins = F.from_user.id.in_(frozenset(admin_ids))
    router.message.filter(admins)
    router.callback_query.filter(admins)
    router.message.register(show_commands, CommandStart(ignore_case=True))
    router.include_routers(retrain.router(), model.router())
    return router


async def show_commands(message: Message, bot: Bot) -> None:
    """Fill the menu of an admin who starts the bot, and let him be greeted as any reader."""
    if message.from_user and message.chat.id == message.from_user.id:
        await set_commands(bot, message.chat.id)
    raise SkipHandler


async def set_commands(bot: Bot, admin_id: int) -> None:
    """Give an admin's chat the readers' commands and his own."""
    scope = BotCommandScopeChat(chat_id=admin_id)
    english = [*reader_commands(texts.EN), *_own(admin_texts.EN)]
    russian = [*reader_commands(texts.RU), *_own(admin_texts.RU)]
    try:
        await bot.set_my_commands(english, scope=scope)
        await bot.set_my_commands(russian, scope=scope, language_code=texts.RU.language)
    except TelegramBadRequest as error:  # he has not written to the bot yet
        log.info("the commands of admin %d: %s", admin_id, error.message)


def reader_commands(words: texts.Texts) -> list[BotCommand]:
    """Return the commands that everybody sees."""
    return [
        BotCommand(command="story", description=words.command_story),
        BotCommand(command="help", description=words.command_help),
        BotCommand(command="privacy", description=words.command_privacy),
        BotCommand(command="start", description=words.command_start),
    ]


def _own(words: admin_texts.AdminTexts) -> list[BotCommand]:
    return [
        BotCommand(command="retrain", description=words.command_retrain),
        BotCommand(command="model", description=words.command_model),
    ]
