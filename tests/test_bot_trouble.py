"""Odd inputs, forged buttons, a Telegram that refuses: answered politely, nothing lost."""

import logging
from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import delete, select, update

from bot.texts import RU
from db.models import Generation, Job, Rating
from db.session import Database
from ml.engine import EchoEngine
from tests.stand import READER_ID, Stand, open_stand

STRANGER_ID = 200


@pytest.fixture
async def stand(sqlite: Database) -> AsyncIterator[Stand]:
    async with open_stand(sqlite, admin_ids="900") as stand:
        yield stand


@pytest.fixture(autouse=True)
def no_traceback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing in this file may end in a logged error."""
    yield
    assert not [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]


async def test_an_empty_story_explains_itself(stand: Stand) -> None:
    for text in ("/story", "/story    ", "/story \x00\x07"):
        await stand.server.say(stand.reader, text)
        await stand.server.wait_for(
            lambda: stand.last().from_bot and "/story Мороз и солнце" in stand.last().text,
            what="an explanation",
        )


async def test_an_unknown_command_is_answered(stand: Stand) -> None:
    await stand.server.say(stand.reader, "/poem Мороз")
    await stand.answer(RU.unknown_command)


async def test_stickers_and_voice_are_answered(stand: Stand) -> None:
    await stand.server.sticker(stand.reader)
    await stand.answer(RU.text_only)
    await stand.server.voice(stand.reader)
    await stand.server.wait_for(
        lambda: [m.text for m in stand.messages() if m.from_bot] == [RU.text_only] * 2,
        what="the second answer",
    )


async def test_a_long_opening_is_refused_with_the_limit(stand: Stand) -> None:
    stand.work()
    await stand.story()  # the worker has told its model's limit
    await stand.server.say(stand.reader, "ж" * 10_000)
    await stand.answer(RU.too_long.format(length=10_000, limit=1000))
    async with stand.database.read() as session:
        assert len((await session.scalars(select(Job))).all()) == 1


async def test_an_opening_of_too_many_tokens_is_refused_by_the_worker(stand: Stand) -> None:
    await stand.server.say(stand.reader, "ж " * 400)  # no worker yet: nobody knows the limit
    stand.work()
    await stand.answer(RU.too_many_tokens.format(tokens=400, limit=300))


async def test_signs_of_html_and_markdown_survive(stand: Stand) -> None:
    stand.work()
    story = await stand.story("<b>&_* </i> [x](y) `z` \\")
    assert story.text.startswith("<b>&_* </i> [x](y) `z` \\ <b>&_* </i>")


async def test_emoji_and_lone_surrogates_survive(stand: Stand) -> None:
    stand.work()
    story = await stand.story("🌨🌞 e\u0301 家 \u200f\u202e")
    assert story.text.startswith("🌨🌞 e\u0301 家")
    assert story.entities[0]["length"] >= 8  # in UTF-16 units, as Telegram counts


async def test_a_strangers_tap_changes_nothing(stand: Stand) -> None:
    stand.work()
    story = await stand.story()
    stranger = stand.server.user(STRANGER_ID)
    mine = await stand.server.say(stranger, "/help")
    answer = await stand.answer(RU.limit.format(characters=1000), STRANGER_ID)
    data = story.buttons[0]["callback_data"]
    callback = await stand.server.forge(stranger, answer.message_id, data)
    assert await stand.toast(callback) == RU.not_yours
    async with stand.database.read() as session:
        assert not (await session.scalars(select(Rating))).all()
    assert mine.text == "/help"


async def test_a_stranger_cannot_stop_a_story(stand: Stand) -> None:
    await stand.server.say(stand.reader, "/story Мороз")
    placeholder = await stand.answer(RU.queued_next)
    stranger = stand.server.user(STRANGER_ID)
    await stand.server.say(stranger, "/help")
    answer = await stand.answer("/story", STRANGER_ID)
    data = placeholder.buttons[0]["callback_data"]
    callback = await stand.server.forge(stranger, answer.message_id, data)
    assert await stand.toast(callback) == RU.not_yours
    async with stand.database.read() as session:
        assert (await session.scalars(select(Job.status))).one() == "queued"


async def test_a_tap_after_the_story_is_gone_is_answered(stand: Stand) -> None:
    stand.work()
    story = await stand.story()
    async with stand.database.write() as session:
        await session.execute(delete(Generation))
        await session.execute(delete(Job))
    callback = await stand.server.tap(stand.reader, story.message_id, "👍")
    assert await stand.toast(callback) == RU.gone


@pytest.mark.parametrize(
    "data", ["", "rate", "rate:1", "rate:x:1", "rate:-1:1", f"rate:{2**70}:1", "stop:0", "куку"]
)
async def test_forged_data_is_answered(stand: Stand, data: str) -> None:
    stand.work()
    story = await stand.story()
    callback = await stand.server.forge(stand.reader, story.message_id, data)
    assert await stand.toast(callback) == RU.old_button


async def test_a_stop_that_comes_too_late_is_answered(stand: Stand) -> None:
    stand.work()
    story = await stand.story()
    callback = await stand.server.forge(stand.reader, story.message_id, "stop:1")
    assert await stand.toast(callback) == RU.too_late


async def test_refused_drafts_fall_back_to_edits(stand: Stand) -> None:
    stand.server.draft_errors = True
    stand.work(EchoEngine(delay=0.1, words=25))
    story = await stand.story()
    assert story.text.endswith("солнце Мороз.")
    assert story.edits >= 2
    assert len([m for m in stand.messages() if m.from_bot]) == 1
    assert len([c for c in stand.server.calls if c.method == "sendMessageDraft"]) == 1


async def test_flood_control_is_obeyed_and_the_story_still_arrives_once(stand: Stand) -> None:
    stand.server.fail_next("sendMessage", times=2, retry_after=1)
    stand.server.fail_next("sendMessageDraft", retry_after=1)
    stand.work(EchoEngine(delay=0.1, words=15))
    story = await stand.story()
    await stand.alone(story)
    assert stand.server.violations == []


async def test_a_failing_server_delays_the_story_and_loses_nothing(stand: Stand) -> None:
    stand.work()
    stand.server.fail_next("sendMessage", times=2, error_code=502)
    await stand.server.say(stand.reader, "/story Мороз")
    story = await stand.server.wait_for(
        lambda: next((m for m in stand.messages() if len(m.buttons) == 2), None),
        timeout=30,
        what="the story after the failures",
    )
    assert story is not None
    await stand.alone(story)


async def test_a_vanished_placeholder_does_not_lose_the_story(stand: Stand) -> None:
    stand.server.draft_errors = True
    await stand.server.say(stand.reader, "/story Мороз")
    placeholder = await stand.answer(RU.queued_next)
    await stand.app.bot.delete_message(READER_ID, placeholder.message_id)
    stand.work()
    assert (await stand.rated_message()).text.startswith("Мороз Мороз")


async def test_a_failed_story_is_explained(stand: Stand) -> None:
    await stand.server.say(stand.reader, "/story Мороз")
    await stand.answer(RU.queued_next)
    async with stand.database.write() as session:
        await session.execute(update(Job).values(status="failed", error="out of memory"))
    failed = await stand.answer(RU.failed)
    assert failed.buttons == []


async def test_a_blocked_bot_does_not_try_for_ever(stand: Stand) -> None:
    stand.server.fail_next(
        "sendMessage",
        times=1,
        error_code=403,
        description="Forbidden: bot was blocked by the user",
    )
    await stand.server.say(stand.reader, "/story Мороз")

    async def let_go() -> bool:
        async with stand.database.read() as session:
            return (await session.scalars(select(Job.delivered_at))).first() is not None

    for _ in range(100):
        if await let_go():
            break
        await stand.server.wait_for(lambda: True)
    assert await let_go()
    assert not [m for m in stand.messages() if m.from_bot]
