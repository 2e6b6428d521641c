"""Puts the bot together: one dispatcher for Telegram and for the terminal."""

from aiogram import Bot, Dispatcher
from aiogram.types import BotCommand

from bot.config import BotSettings
from bot.delivery import Delivery
from bot.handlers import buttons, fallback, start, story
from bot.middlewares import InFlight, Language
from bot.texts import EN, RU, Texts
from db.session import Database


def make_dispatcher(
    settings: BotSettings, database: Database, delivery: Delivery, in_flight: InFlight
) -> Dispatcher:
    """Return the dispatcher with everything its handlers ask for by name."""
    dispatcher = Dispatcher(database=database, delivery=delivery)
    dispatcher.update.outer_middleware(in_flight)
    dispatcher.update.outer_middleware(Language())
    dispatcher.include_routers(
        start.router(), story.router(), buttons.router(), fallback.router(settings.admin_ids)
    )
    return dispatcher


async def announce_commands(bot: Bot) -> None:
    """Fill Telegram's command menu: English for everybody, Russian for Russian readers."""
    await bot.set_my_commands(_commands(EN))
    await bot.set_my_commands(_commands(RU), language_code=RU.language)


def _commands(texts: Texts) -> list[BotCommand]:
    return [
        BotCommand(command="story", description=texts.command_story),
        BotCommand(command="help", description=texts.command_help),
        BotCommand(command="start", description=texts.command_start),
    ]
