"""/story, a plain opening in a private chat, a reply to a story: each becomes a job."""

from aiogram import F, Router
from aiogram.enums import ChatType
from aiogram.filters import Command, CommandObject
from aiogram.types import Message, User

from bot.delivery import Delivery
from bot.formatting import clean
from bot.texts import Texts
from db import jobs, queries
from db.models import Job
from db.session import Database

CONTEXT_CHARACTERS = 20_000  # of a story that goes on; the model sees its last part


def router() -> Router:
    """Return the router of everything that asks for a story."""
    router = Router(name="story")
    router.message.filter(F.from_user.as_("reader"))
    router.message.register(command, Command("story", ignore_case=True))
    plain = F.text & ~F.text.startswith("/")
    router.message.register(opening, plain, F.chat.type == ChatType.PRIVATE)
    router.message.register(reply, plain, F.reply_to_message.from_user.is_bot)
    return router


async def command(
    message: Message,
    command: CommandObject,
    reader: User,
    texts: Texts,
    database: Database,
    delivery: Delivery,
) -> None:
    """Answer ``/story words``; in reply to a story the words continue it."""
    context = await story_so_far(message, database)
    await ask(message, reader, command.args or "", context, texts, database, delivery)


async def opening(
    message: Message, reader: User, texts: Texts, database: Database, delivery: Delivery
) -> None:
    """Answer a plain text in a private chat."""
    context = await story_so_far(message, database)
    await ask(message, reader, message.text or "", context, texts, database, delivery)


async def reply(
    message: Message, reader: User, texts: Texts, database: Database, delivery: Delivery
) -> None:
    """Answer a reply to a story in a group; other replies are not for us."""
    if context := await story_so_far(message, database):
        await ask(message, reader, message.text or "", context, texts, database, delivery)


async def ask(
    message: Message,
    reader: User,
    words: str,
    context: str,
    texts: Texts,
    database: Database,
    delivery: Delivery,
) -> None:
    """Put the request into the queue, or say why not."""
    words = clean(words)
    if not words and not context:
        await message.reply(texts.empty_story)
        return
    async with database.read() as session:
        model = await queries.speaking_model(session)
    if model is not None and len(words) > model.prompt_characters:
        refusal = texts.too_long.format(length=len(words), limit=model.prompt_characters)
        await message.reply(refusal)
        return
    async with database.write() as session:
        await queries.remember_user(session, reader.id, texts.language)
        await jobs.enqueue(
            session,
            user_id=reader.id,
            chat_id=message.chat.id,
            private=message.chat.type == ChatType.PRIVATE,
            request_message_id=message.message_id,
            prompt=words,
            context=context,
        )
    delivery.wake()


async def story_so_far(message: Message, database: Database) -> str:
    """Return the story that the message replies to, from its beginning; or nothing."""
    if message.reply_to_message is None:
        return ""
    async with database.read() as session:
        job = await queries.job_at(session, message.chat.id, message.reply_to_message.message_id)
    return whole_story(job)[-CONTEXT_CHARACTERS:] if job else ""


def whole_story(job: Job) -> str:
    """Return what stands before this job, its opening and what was written."""
    text = job.generations[0].text if job.generations else job.partial
    return f"{job.context} {job.prompt}{text}".strip()
