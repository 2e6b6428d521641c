"""Consent: asked once, after the first vote; only the reader answers; /privacy changes it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from bot.keyboards import Consent
from bot.texts import EN, RU
from db.models import User
from db.session import Database
from tests.stand import READER_ID, Stand, open_stand
from tests.telegram_server import Message

GROUP_ID = -500
STRANGER_ID = 200


@pytest.fixture
async def stand(sqlite: Database) -> AsyncIterator[Stand]:
    async with open_stand(sqlite) as stand:
        stand.work()
        yield stand


async def consent(stand: Stand) -> bool | None:
    async with stand.database.read() as session:
        return (await session.get_one(User, READER_ID)).consent


def questions(stand: Stand, chat_id: int = READER_ID) -> list[Message]:
    return [m for m in stand.messages(chat_id) if m.text == RU.ask_consent]


async def vote(stand: Stand, story: Message, button: str = "👍") -> None:
    await stand.toast(await stand.server.tap(stand.reader, story.message_id, button))


async def test_the_first_vote_asks_and_yes_is_kept(stand: Stand) -> None:
    story = await stand.story()
    assert await consent(stand) is None
    await vote(stand, story)
    question = await stand.answer(RU.ask_consent)
    assert [button["text"] for button in question.buttons] == [RU.consent_yes, RU.consent_no]
    assert question.reply_to == story.message_id
    assert await consent(stand) is False  # no, until he says yes
    await vote(stand, question, RU.consent_yes)
    await stand.answer(RU.agreed)
    assert await consent(stand) is True
    assert question.buttons == []


async def test_no_is_kept(stand: Stand) -> None:
    await vote(stand, await stand.story())
    await vote(stand, await stand.answer(RU.ask_consent), RU.consent_no)
    await stand.answer(RU.refused)
    assert await consent(stand) is False


async def test_two_taps_at_once_and_later_votes_ask_once(stand: Stand) -> None:
    story = await stand.story()
    taps = [await stand.server.tap(stand.reader, story.message_id, sign) for sign in "👍👎"]
    await asyncio.gather(*map(stand.toast, taps))
    await stand.answer(RU.ask_consent)
    await vote(stand, await stand.story("Вечор"))
    await stand.server.say(stand.reader, "/help")  # by now the vote has been handled
    await stand.answer("/story")
    assert len(questions(stand)) == 1


async def test_a_strangers_vote_asks_nobody(stand: Stand) -> None:
    group = stand.server.group(GROUP_ID)
    await stand.server.say(stand.reader, "/story Кот", chat=group)
    story = await stand.rated_message(GROUP_ID)
    stranger = stand.server.user(STRANGER_ID)
    tap = await stand.server.tap(stranger, story.message_id, "👍", chat=group)
    assert await stand.toast(tap) == RU.not_yours
    assert questions(stand, GROUP_ID) == []
    assert await consent(stand) is None


async def test_in_a_group_only_the_reader_answers_for_himself(stand: Stand) -> None:
    group = stand.server.group(GROUP_ID)
    await stand.server.say(stand.reader, "/story Кот", chat=group)
    story = await stand.rated_message(GROUP_ID)
    await stand.toast(await stand.server.tap(stand.reader, story.message_id, "👍", chat=group))
    question = await stand.answer(RU.ask_consent, GROUP_ID)
    stranger = stand.server.user(STRANGER_ID)
    tap = await stand.server.tap(stranger, question.message_id, RU.consent_yes, chat=group)
    assert await stand.toast(tap) == RU.not_your_question
    assert await consent(stand) is False
    # Nor with a forged button of his own, for somebody else.
    own = Consent(reader_id=STRANGER_ID, agreed=True).pack()
    await stand.toast(await stand.server.forge(stranger, question.message_id, own, chat=group))
    assert await consent(stand) is False


async def test_privacy_shows_what_is_kept_and_changes_the_consent(stand: Stand) -> None:
    await stand.server.say(stand.reader, "/privacy")
    shown = await stand.answer(RU.privacy_no)
    assert [button["text"] for button in shown.buttons] == [RU.consent_yes]
    await vote(stand, shown, RU.consent_yes)
    await stand.answer(RU.agreed)
    assert await consent(stand) is True  # of somebody who has not written a story yet
    await stand.server.say(stand.reader, "/privacy")
    shown = await stand.answer(RU.privacy_yes)
    await vote(stand, shown, RU.consent_no)
    await stand.answer(RU.refused)
    assert await consent(stand) is False


async def test_who_has_answered_is_not_asked_by_a_vote(stand: Stand) -> None:
    await stand.server.say(stand.reader, "/privacy")
    await vote(stand, await stand.answer(RU.privacy_no), RU.consent_yes)
    await stand.answer(RU.agreed)
    await vote(stand, await stand.story())
    await stand.server.say(stand.reader, "/help")
    await stand.answer("/story")
    assert questions(stand) == []
    assert await consent(stand) is True


async def test_privacy_speaks_the_readers_language(stand: Stand) -> None:
    reader = stand.server.user(300, language_code="en")
    await stand.server.say(reader, "/privacy")
    shown = await stand.answer(EN.privacy_no, 300)
    assert [button["text"] for button in shown.buttons] == [EN.consent_yes]
