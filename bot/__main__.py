"""The bot: python -m bot. With BOT_TOKEN it serves Telegram, without one this terminal."""

import asyncio
import logging
import sys

from bot.lazy_types import install

install()  # before anything else imports aiogram

# ruff: noqa: E402
from aiogram.exceptions import ClientDecodeError, TelegramNotFound, TelegramUnauthorizedError
from aiogram.utils.token import TokenValidationError

from bot.app import App
from bot.config import BotSettings
from bot.console import ConsoleSession, converse
from bot.screen import Screen
from db.migrate import upgrade
from db.session import DatabaseError, DatabaseSettings, connect
from db.settings import SettingsError


async def serve(settings: BotSettings) -> None:
    """Run the bot until a signal, or the end of the terminal's input, stops it."""
    database = connect(DatabaseSettings.load().database_url)
    try:
        await upgrade(database)
        if settings.bot_token:
            await App(settings, database).run()
        else:
            session = ConsoleSession(Screen(sys.stdout), settings.console_language)
            app = App(settings, database, session)
            talk = asyncio.create_task(converse(session, app, sys.stdin.fileno()))
            await app.run()
            talk.cancel()
            await asyncio.gather(talk, return_exceptions=True)
    finally:
        await database.close()


def main() -> None:
    try:
        settings = BotSettings.load()
        level = settings.bot_log_level if settings.bot_token else "WARNING"
        logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        asyncio.run(serve(settings))
    except (DatabaseError, SettingsError) as error:
        sys.exit(f"bot: {error}")
    except (TokenValidationError, TelegramNotFound, TelegramUnauthorizedError):
        sys.exit("bot: Telegram does not know this BOT_TOKEN; @BotFather gives one")
    except ClientDecodeError:
        sys.exit("bot: what answers at TELEGRAM_API_URL is no Bot API server")
    except KeyboardInterrupt:  # before the dispatcher took over the signal
        sys.exit(130)


if __name__ == "__main__":
    main()
