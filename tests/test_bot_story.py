"""A story from the reader's message to his rated answer, over real HTTP."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import select, update

from bot.texts import EN, RU
from db.models import Generation, Job, Rating
from db.session import Database
from ml.engine import EchoEngine
from tests.stand import READER_ID, Stand, open_stand

GROUP_ID = -500


@pytest.fixture
async def stand(sqlite: Database) -> AsyncIterator[Stand]:
    async with open_stand(sqlite) as stand:
        yield stand


async def test_a_private_story_grows_in_a_draft_and_ends_in_one_message(stand: Stand) -> None:
    stand.work(EchoEngine(delay=0.1, words=20))
    await stand.server.say(stand.reader, "/story Мороз и солнце")
    await stand.answer(RU.queued_next)
    await stand.server.wait_for(lambda: READER_ID in stand.server.drafts, what="a draft")
    draft = stand.server.drafts[READER_ID]
    assert draft.text.startswith("Мороз и солнце")
    assert draft.can_stop
    assert draft.keep_on_stop
    story = await stand.rated_message()
    assert story.text == "Мороз и солнце" + " Мороз и солнце" * 6 + " Мороз и."
    await stand.alone(story)
    assert draft.updates >= 1
    assert [(e["type"], e["length"]) for e in story.entities] == [("bold", 14)]


async def test_everything_about_a_story_is_kept(stand: Stand) -> None:
    stand.work()
    await stand.story()
    async with stand.database.read() as session:
        job = (await session.scalars(select(Job))).one()
        generation = (await session.scalars(select(Generation))).one()
    assert (job.user_id, job.chat_id, job.prompt, job.private) == (100, 100, "Мороз и солнце", True)
    assert job.delivered_at is not None
    assert generation.tokens == 12
    assert generation.finish_reason == "stop"
    assert generation.settings["temperature"] > 0
    assert generation.model_version_id is not None
    assert generation.seed >= 0
    assert generation.started_at <= generation.finished_at


async def test_plain_text_in_a_private_chat_is_an_opening(stand: Stand) -> None:
    stand.work()
    await stand.server.say(stand.reader, "Пушкин звонит Гоголю")
    assert (await stand.rated_message()).text.startswith("Пушкин звонит Гоголю Пушкин")


async def test_a_group_story_is_edited_into_its_placeholder(stand: Stand) -> None:
    group = stand.server.group(GROUP_ID)
    stand.work(EchoEngine(delay=0.05, words=10))
    asked = await stand.server.say(stand.reader, "/story@local_test_bot Кот", chat=group)
    story = await stand.rated_message(GROUP_ID)
    assert story.text.startswith("Кот Кот")
    assert story.reply_to == asked.message_id
    assert story.edits >= 1
    assert len([m for m in stand.messages(GROUP_ID) if m.from_bot]) == 1
    assert not [c for c in stand.server.calls if c.method == "sendMessageDraft"]


async def test_other_talk_in_a_group_is_not_answered(stand: Stand) -> None:
    group = stand.server.group(GROUP_ID)
    stand.work()
    await stand.server.say(stand.reader, "Как дела?", chat=group)
    await stand.server.say(stand.reader, "/story@other_bot Кот", chat=group)
    await stand.story()  # by now the group's messages have been handled
    assert not [m for m in stand.messages(GROUP_ID) if m.from_bot]


async def test_a_reply_to_a_story_continues_it(stand: Stand) -> None:
    stand.work()
    first = await stand.story("Жил-был царь")
    await stand.server.say(stand.reader, "Вдруг", reply_to=first.message_id)
    await stand.server.wait_for(
        lambda: stand.last().text.startswith("Вдруг Жил-был"), what="a continuation"
    )
    async with stand.database.read() as session:
        job = (await session.scalars(select(Job).order_by(Job.id.desc()))).first()
    assert job is not None
    assert job.context == first.text
    assert job.prompt == "Вдруг"


async def test_an_empty_story_in_reply_continues_without_words(stand: Stand) -> None:
    stand.work()
    first = await stand.story("Жил-был царь")
    await stand.server.say(stand.reader, "/story", reply_to=first.message_id)
    await stand.server.wait_for(
        lambda: stand.last().message_id != first.message_id and len(stand.last().buttons) == 2,
        what="a continuation",
    )
    assert stand.last().text.startswith("Жил-был царь")
    assert stand.last().entities == []


async def test_a_reply_in_a_group_continues_only_a_story(stand: Stand) -> None:
    group = stand.server.group(GROUP_ID)
    stand.work()
    await stand.server.say(stand.reader, "/story Кот", chat=group)
    story = await stand.rated_message(GROUP_ID)
    other = stand.server.user(101)
    await stand.server.say(other, "и пёс", chat=group, reply_to=story.message_id)
    await stand.server.wait_for(
        lambda: stand.last(GROUP_ID).text.startswith("и пёс Кот Кот"), what="a continuation"
    )


async def test_each_reader_is_answered_in_his_language(stand: Stand) -> None:
    await stand.server.say(stand.reader, "/start")
    assert RU.speaks_nobody in (await stand.answer("Здравствуйте")).text
    foreigner = stand.server.user(102, "en-GB")
    await stand.server.say(foreigner, "/help")
    assert EN.no_limit in (await stand.answer("Reply to a story", 102)).text


async def test_start_names_the_model_that_speaks(stand: Stand) -> None:
    stand.work()
    await stand.story()
    await stand.server.say(stand.reader, "/start")
    await stand.answer("Сейчас пишет модель echo.")
    await stand.server.say(stand.reader, "/HELP")
    await stand.answer("Начало — до 1000 знаков")


async def test_a_vote_is_stored_marked_and_changed(stand: Stand) -> None:
    stand.work()
    story = await stand.story()
    callback = await stand.server.tap(stand.reader, story.message_id, "👍")
    assert await stand.toast(callback) == RU.thanks
    await stand.server.wait_for(lambda: story.buttons[0]["text"] == "👍 ✓", what="a mark")
    callback = await stand.server.tap(stand.reader, story.message_id, "👎")
    assert await stand.toast(callback) == RU.sorry
    await stand.server.wait_for(
        lambda: [b["text"] for b in story.buttons] == ["👍", "👎 ✓"], what="the other mark"
    )
    async with stand.database.read() as session:
        rating = (await session.scalars(select(Rating))).one()
    assert (rating.user_id, rating.value) == (100, -1)


async def test_two_taps_at_once_leave_one_vote(stand: Stand) -> None:
    stand.work()
    story = await stand.story()
    callbacks = [await stand.server.tap(stand.reader, story.message_id, "👍") for _ in range(2)]
    assert [await stand.toast(callback) for callback in callbacks] == [RU.thanks] * 2
    async with stand.database.read() as session:
        assert len((await session.scalars(select(Rating))).all()) == 1


async def test_the_stop_button_stops_and_keeps_what_is_written(stand: Stand) -> None:
    stand.work(EchoEngine(delay=0.1, words=1000))
    await stand.server.say(stand.reader, "/story Мороз")
    placeholder = await stand.answer(RU.writing)
    await stand.server.wait_for(lambda: READER_ID in stand.server.drafts, what="a draft")
    callback = await stand.server.tap(stand.reader, placeholder.message_id, RU.stop)
    assert await stand.toast(callback) == RU.stopping
    story = await stand.answer(RU.stopped)
    assert story.text.startswith("Мороз Мороз")
    await stand.alone(story)


async def test_telegrams_own_stop_cancels_the_job(stand: Stand) -> None:
    stand.work(EchoEngine(delay=0.1, words=1000))
    await stand.server.say(stand.reader, "/story Мороз")
    await stand.server.wait_for(lambda: READER_ID in stand.server.drafts, what="a draft")
    await stand.server.press_stop(stand.reader)
    story = await stand.answer(RU.stopped)
    assert story.text.startswith("Мороз Мороз")
    async with stand.database.read() as session:
        assert (await session.scalars(select(Job.status))).one() == "cancelled"


async def test_a_queued_story_can_be_stopped(stand: Stand) -> None:
    await stand.server.say(stand.reader, "/story Мороз")
    placeholder = await stand.answer(RU.queued_next)
    await stand.server.tap(stand.reader, placeholder.message_id, RU.stop)
    stopped = await stand.answer(RU.stopped)
    assert stopped.message_id == placeholder.message_id
    assert stopped.buttons == []


async def test_the_place_in_the_queue_moves_at_fibonacci_numbers(stand: Stand) -> None:
    for i in range(6):
        await stand.server.say(stand.reader, f"/story {i}")
    await stand.answer(RU.queued.format(place=6))
    await stand.server.wait_for(lambda: len(stand.messages()) == 12, what="six placeholders")
    texts = [m.text for m in stand.messages() if m.from_bot]
    assert texts[0] == RU.queued_next
    assert RU.queued.format(place=2) in texts
    # The last reader moves from 6 to 4, which is not told, then to 1, which is.
    async with stand.database.write() as session:
        ids = list(await session.scalars(select(Job.id).order_by(Job.id)))
        await session.execute(update(Job).where(Job.id.in_(ids[:2])).values(status="cancelled"))
    stopped = lambda: sum(m.text == RU.stopped for m in stand.messages()) == 2  # noqa: E731
    await stand.server.wait_for(stopped, what="the news of two stops")
    assert edits_of_last(stand) == []
    async with stand.database.write() as session:
        await session.execute(update(Job).where(Job.id.in_(ids[2:5])).values(status="cancelled"))
    await stand.server.wait_for(
        lambda: edits_of_last(stand) == [RU.queued_next], what="the news of place 1"
    )


def edits_of_last(stand: Stand) -> list[str]:
    placeholder = max(m.message_id for m in stand.messages())
    return [
        str(c.params["text"])
        for c in stand.server.calls
        if c.method == "editMessageText" and c.params["message_id"] == str(placeholder)
    ]
