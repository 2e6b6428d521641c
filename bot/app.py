"""Puts the bot together: one dispatcher, whether Telegram or a terminal stands behind it."""

import asyncio
import logging

from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.session.base import BaseSession
from aiogram.client.telegram import PRODUCTION, TelegramAPIServer
from aiogram.exceptions import TelegramNetworkError, TelegramServerError

from bot.config import CONSOLE_CHAT, BotSettings
from bot.delivery import Delivery
from bot.handlers import admin, buttons, fallback, privacy, start, story
from bot.middlewares import InFlight, Language, RetryAfter
from bot.progress import Progress
from bot.texts import EN, RU
from db.session import Database

DRAIN = 10.0  # seconds that updates under way have to finish at a shutdown
LONGEST_PAUSE = 30.0  # seconds between tries to reach Telegram at the start
NO_TOKEN = "1:none"  # a session other than Telegram's asks for none

log = logging.getLogger("bot")


class App:
    """The bot with its parts; ``session`` is Telegram's unless another one is given."""

    def __init__(
        self, settings: BotSettings, database: Database, session: BaseSession | None = None
    ) -> None:
        telegram = session is None
        if session is None:
            url = settings.telegram_api_url
            session = AiohttpSession(api=TelegramAPIServer.from_base(url) if url else PRODUCTION)
        session.middleware(RetryAfter())
        self.database = database
        self.bot = Bot(settings.bot_token or NO_TOKEN, session=session)
        self.in_flight = InFlight()
        # A terminal and a bot on Telegram may stand on one database: each answers its own. In the
        # terminal the reader is his own admin.
        only, but = (None, CONSOLE_CHAT) if telegram else (CONSOLE_CHAT, None)
        self.delivery = Delivery(self.bot, database, only, but)
        self.progress = Progress(self.bot, database, only, but)
        self.admin_ids = settings.admin_ids if telegram else [CONSOLE_CHAT]
        self.dispatcher = Dispatcher(
            database=database,
            delivery=self.delivery,
            progress=self.progress,
            min_ratings=settings.retrain_min_ratings,
        )
        self.dispatcher.update.outer_middleware(self.in_flight)
        self.dispatcher.update.outer_middleware(Language())
        self.dispatcher.include_routers(
            admin.router(self.admin_ids),
            start.router(),
            privacy.router(),
            story.router(),
            buttons.router(),
            fallback.router(self.admin_ids),
        )
        self.dispatcher.shutdown.register(self._drain)

    async def run(self, *, handle_signals: bool = True) -> None:
        """Serve until a signal comes or ``dispatcher.stop_polling`` is called."""
        try:
            await self._announce()
        except BaseException:
            await self.bot.session.close()
            raise
        loops = [asyncio.create_task(self._keep(loop)) for loop in (self.delivery, self.progress)]
        try:
            await self.dispatcher.start_polling(self.bot, handle_signals=handle_signals)
        finally:
            await self._stop()
            await asyncio.gather(*loops)

    async def _keep(self, loop: Delivery | Progress) -> None:
        """Run a loop until it is stopped; one that ends otherwise takes the bot with it."""
        try:
            await loop.run()
        finally:
            if not loop.stopping:
                await self.dispatcher.stop_polling()

    async def _stop(self) -> None:
        await asyncio.gather(self.delivery.stop(), self.progress.stop())

    async def _announce(self) -> None:
        """Fill the command menu; a Telegram that is out of reach is asked until it answers."""
        pause = 1.0
        while True:
            try:
                await self.bot.set_my_commands(admin.reader_commands(EN))
                await self.bot.set_my_commands(admin.reader_commands(RU), language_code=RU.language)
                for admin_id in self.admin_ids:
                    await admin.set_commands(self.bot, admin_id)
                await self.bot.me()
            except (TelegramNetworkError, TelegramServerError) as error:
                log.warning("Telegram does not answer, next try in %.0f s: %s", pause, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                return

    async def _drain(self) -> None:
        """Let the updates and deliveries under way finish: aiogram waits for neither."""
        await self.in_flight.drain(DRAIN)
        await self._stop()
