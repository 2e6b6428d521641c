"""The bot: python -m bot. With BOT_TOKEN it serves Telegram, without one this terminal."""

import asyncio
import logging
import sys

from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.session.base import BaseSession
from aiogram.client.telegram import PRODUCTION, TelegramAPIServer

from bot.app import announce_commands, make_dispatcher
from bot.config import BotSettings
from bot.console import BOT_ID, ConsoleSession, converse, welcome
from bot.delivery import Delivery
from bot.middlewares import InFlight, RetryAfter
from bot.screen import Screen
from db.migrate import upgrade
from db.session import DatabaseSettings, connect

DRAIN = 10.0  # seconds that updates under way have to finish at a shutdown


async def serve(settings: BotSettings) -> None:
    """Run the bot until a signal, or the end of the terminal's input, stops it."""
    database = connect(DatabaseSettings().database_url)
    await upgrade(database)
    screen = Screen(sys.stdout)
    session: BaseSession
    if settings.bot_token:
        url = settings.telegram_api_url
        session = AiohttpSession(api=TelegramAPIServer.from_base(url) if url else PRODUCTION)
    else:
        session = ConsoleSession(screen, settings.console_language)
    session.middleware(RetryAfter())
    bot = Bot(settings.bot_token or f"{BOT_ID}:console", session=session)
    in_flight = InFlight()
    delivery = Delivery(bot, database)
    dispatcher: Dispatcher = make_dispatcher(settings, database, delivery, in_flight)
    tasks = [asyncio.create_task(delivery.run())]
    if isinstance(session, ConsoleSession):
        welcome(screen, settings.console_language)
        talk = converse(session, screen, dispatcher, database, in_flight, sys.stdin.fileno())
        tasks.append(asyncio.create_task(talk))
    else:
        await announce_commands(bot)

    async def shutdown() -> None:
        await in_flight.drain(DRAIN)
        await delivery.stop()

    dispatcher.shutdown.register(shutdown)
    try:
        await dispatcher.start_polling(bot)
    finally:
        for task in tasks[1:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await database.close()


def main() -> None:
    settings = BotSettings()
    level = settings.bot_log_level if settings.bot_token else "WARNING"
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    asyncio.run(serve(settings))


if __name__ == "__main__":
    main()
