"""/start and /help."""

from aiogram import Router
from aiogram.filters import Command, CommandStart
from aiogram.types import Message

from bot.texts import Texts
from db import queries
from db.models import ModelVersion
from db.session import Database

SMALL = 100_000_000  # parameters; below it a model keeps the style and loses the thread


def router() -> Router:
    """Return the router of the two commands."""
    router = Router(name="start")
    router.message.register(start, CommandStart(ignore_case=True))
    router.message.register(show_help, Command("help", ignore_case=True))
    return router


async def start(message: Message, texts: Texts, database: Database) -> None:
    """Greet and say which model speaks."""
    async with database.read() as session:
        model = await queries.speaking_model(session)
    await message.answer(texts.start.format(speaks=speaks(model, texts)))


async def show_help(message: Message, texts: Texts, database: Database) -> None:
    """Explain the commands, and how long an opening may be."""
    async with database.read() as session:
        model = await queries.speaking_model(session)
    limit = texts.limit.format(characters=model.prompt_characters) if model else texts.no_limit
    await message.answer(texts.help.format(limit=limit))


def speaks(model: ModelVersion | None, texts: Texts) -> str:
    """Name the model that writes, with its size where that is known."""
    if model is None:
        return texts.speaks_nobody
    parameters = model.meta.get("parameters")
    if not parameters:
        return texts.speaks.format(name=model.name, size="")
    size = texts.size.format(millions=round(parameters / 1e6))
    words = texts.speaks_small if parameters < SMALL else texts.speaks
    return words.format(name=model.name, size=size)
