"""Tests of the local Telegram Bot API server, driven by aiogram's own client."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import (
    TelegramBadRequest,
    TelegramConflictError,
    TelegramNetworkError,
    TelegramRetryAfter,
    TelegramServerError,
    TelegramUnauthorizedError,
)
from aiogram.types import (
    BotCommand,
    BotCommandScopeAllPrivateChats,
    BotCommandScopeChat,
    BufferedInputFile,
    CallbackQuery,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    Message,
    ReplyParameters,
)

from tests.telegram_server import TelegramServer

TOKEN = "42:TEST"
PNG = b"\x89PNG\r\n\x1a\n and so on"
# The tests take the bot as Any: aiogram types nearly every field of a result as optional.


def keyboard(data: str, text: str = "Next") -> InlineKeyboardMarkup:
    button = InlineKeyboardButton(text=text, callback_data=data)
    return InlineKeyboardMarkup(inline_keyboard=[[button]])


@contextlib.asynccontextmanager
async def client(server: TelegramServer, token: str = TOKEN) -> AsyncIterator[Bot]:
    session = AiohttpSession(api=TelegramAPIServer.from_base(server.url))
    async with Bot(token, session=session) as bot:
        yield bot


@pytest.fixture
async def server() -> AsyncIterator[TelegramServer]:
    async with TelegramServer(token=TOKEN) as server:
        yield server


@pytest.fixture
async def bot(server: TelegramServer) -> AsyncIterator[Bot]:
    async with client(server) as bot:
        yield bot


async def test_methods_and_token(server: TelegramServer, bot: Any) -> None:
    assert (await bot.get_me()).id == 42
    async with client(server, "42:WRONG") as stranger:
        with pytest.raises(TelegramUnauthorizedError):
            await stranger.get_me()
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{server.url}/bot{TOKEN}/GETME") as answer:
            assert (await answer.json())["ok"]
        async with http.get(f"{server.url}/bot{TOKEN}/getNothing") as answer:
            body = {"ok": False, "error_code": 404, "description": "Not Found"}
            assert (answer.status, await answer.json()) == (404, body)
    assert [call.error_code for call in server.calls] == [None, 401, None, 404]


async def test_updates_are_redelivered_until_confirmed(server: TelegramServer, bot: Any) -> None:
    reader = server.user(7)
    for text in ("/start now", "two", "three"):
        await server.say(reader, text)
    first = await bot.get_updates()
    assert [update.message.text for update in first] == ["/start now", "two", "three"]
    assert first[0].message.entities[0].length == len("/start")
    assert await bot.get_updates(limit=2) == first[:2]
    assert await bot.get_updates(offset=first[1].update_id) == first[1:]
    assert await bot.get_updates() == first[1:]
    assert await bot.get_updates(offset=-1) == first[2:]
    assert await bot.get_updates(offset=first[2].update_id + 1) == []


async def test_a_poll_waits_for_an_update(server: TelegramServer, bot: Any) -> None:
    reader = server.user(7)
    poll = asyncio.create_task(bot.get_updates(timeout=5))
    await asyncio.sleep(0.1)
    assert not poll.done()
    sent = await server.sticker(reader)
    (update,) = await poll
    assert (update.message.message_id, update.message.sticker.width) == (sent.message_id, 512)
    started = time.monotonic()
    assert await bot.get_updates(offset=update.update_id + 1, timeout=1) == []
    assert time.monotonic() - started >= 1


async def test_the_second_poll_ends_the_first(server: TelegramServer, bot: Any) -> None:
    first = asyncio.create_task(bot.get_updates(timeout=5))
    await asyncio.sleep(0.1)
    second = asyncio.create_task(bot.get_updates(timeout=5))
    with pytest.raises(TelegramConflictError, match="terminated by other getUpdates"):
        await first
    await server.voice(server.user(7))
    assert len(await second) == 1


async def test_a_poll_of_a_client_that_has_gone_is_no_conflict(
    server: TelegramServer, bot: Any
) -> None:
    async with client(server) as killed:
        poll = asyncio.create_task(killed.get_updates(timeout=5))
        await asyncio.sleep(0.1)
        poll.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await poll
    assert await bot.get_updates(timeout=1) == []
    assert [call.error_code for call in server.calls] == [None]


async def test_allowed_updates(server: TelegramServer, bot: Any) -> None:
    reader = server.user(7)
    await server.say(reader, "one")
    (update,) = await bot.get_updates(allowed_updates=["callback_query"])
    offset = update.update_id + 1
    await server.say(reader, "two")
    assert await bot.get_updates(offset=offset) == []
    message = await bot.send_message(7, "text", reply_markup=keyboard("next"))
    await server.tap(reader, message.message_id, "next")
    assert [update.event_type for update in await bot.get_updates(offset=offset)] == [
        "callback_query"
    ]
    assert await bot.get_updates(offset=offset + 1, allowed_updates=[]) == []
    server.push_update("chat_member", {})
    await server.say(reader, "three")
    assert [update.event_type for update in await bot.get_updates()] == ["message"]


@pytest.mark.parametrize(
    ("html", "reason"),
    [
        ("<h1>x</h1>", 'Unsupported start tag "h1" at byte offset 0'),
        ("да <b>x", 'Can\'t find end tag corresponding to start tag "b"'),
        ("да < 6", 'Unsupported start tag "" at byte offset 5'),
        ("x <b", "Unclosed start tag at byte offset 2"),
        ("<b><i>x</b></i>", "Unmatched end tag"),
        ("x</b>", "Unexpected end tag"),
        ("<span>x</span>", 'Tag "span" must have class "tg-spoiler"'),
    ],
)
async def test_unparsed_html(server: TelegramServer, bot: Any, html: str, reason: str) -> None:
    await server.say(server.user(7), "/start")
    with pytest.raises(TelegramBadRequest) as refusal:
        await bot.send_message(7, html, parse_mode="HTML")
    assert f"Bad Request: can't parse entities: {reason}" in refusal.value.message
    await bot.send_message(7, html)
    assert server.messages(7)[-1].text == html


async def test_text_is_measured_after_entities_in_utf16(server: TelegramServer, bot: Any) -> None:
    await server.say(server.user(7), "/start")
    sent = await bot.send_message(7, " <b>&lt;\U0001f600&amp;</b> <i>x</i> ", parse_mode="HTML")
    assert sent.text == "<\U0001f600& x"
    assert sent.html_text == "<b>&lt;\U0001f600&amp;</b> <i>x</i>"
    link = '<a href="https://example.org/?a=1&amp;b">&quot;</a><tg-spoiler>x</tg-spoiler>'
    sent = await bot.send_message(7, link, parse_mode="HTML")
    assert [entity.url for entity in sent.entities] == ["https://example.org/?a=1&b", None]
    assert sent.text == '"x'
    await bot.send_message(7, f"<b>{'x' * 4096}</b>", parse_mode="HTML")
    await bot.send_message(7, "\U0001f600" * 2048)
    for text, reason in (
        ("\U0001f600" * 2048 + "x", "message is too long"),
        (" <b> </b>\n", "message text is empty"),
        ("", "message text is empty"),
    ):
        with pytest.raises(TelegramBadRequest, match=f"Bad Request: {reason}"):
            await bot.send_message(7, text, parse_mode="HTML")


async def test_send_edit_delete(server: TelegramServer, bot: Any) -> None:
    with pytest.raises(TelegramBadRequest, match="Bad Request: chat not found"):
        await bot.send_message(7, "text")
    said = await server.say(server.user(7), "/start")
    reply = await bot.send_message(
        7, "one", reply_parameters=ReplyParameters(message_id=said.message_id)
    )
    assert reply.reply_to_message.text == "/start"
    place = {"chat_id": 7, "message_id": reply.message_id}
    with pytest.raises(TelegramBadRequest, match="message is not modified"):
        await bot.edit_message_text("one", **place)
    edited = await bot.edit_message_text("one", **place, reply_markup=keyboard("n" * 64))
    assert edited.reply_markup.model_dump() == keyboard("n" * 64).model_dump()
    await bot.edit_message_text("two", **place)
    (shown,) = [message for message in server.messages(7) if message.from_bot]
    assert (shown.text, shown.reply_markup, shown.edits) == ("two", None, 2)
    with pytest.raises(TelegramBadRequest, match="message is not modified"):
        await bot.edit_message_reply_markup(**place)
    with pytest.raises(TelegramBadRequest, match="BUTTON_DATA_INVALID"):
        await bot.edit_message_reply_markup(**place, reply_markup=keyboard("д" * 33))
    with pytest.raises(TelegramBadRequest, match="message can't be edited"):
        await bot.edit_message_text("x", chat_id=7, message_id=said.message_id)
    assert await bot.delete_message(**place)
    assert [message.text for message in server.messages(7)] == ["/start"]
    with pytest.raises(TelegramBadRequest, match="message to edit not found"):
        await bot.edit_message_text("x", **place)
    with pytest.raises(TelegramBadRequest, match="message to delete not found"):
        await bot.delete_message(**place)
    gone = ReplyParameters(message_id=reply.message_id)
    with pytest.raises(TelegramBadRequest, match="message to be replied not found"):
        await bot.send_message(7, "x", reply_parameters=gone)
    allowed = gone.model_copy(update={"allow_sending_without_reply": True})
    assert (await bot.send_message(7, "x", reply_parameters=allowed)).reply_to_message is None


async def test_drafts(server: TelegramServer, bot: Any) -> None:
    reader, group = server.user(7), server.group(-100)
    await server.say(reader, "/start")
    await server.say(reader, "/start", chat=group)
    await bot.send_message_draft(7, draft_id=5, text="")
    await bot.send_message_draft(7, draft_id=5, text="<b>a</b>", parse_mode="HTML")
    assert (server.drafts[7].text, server.drafts[7].updates) == ("a", 2)
    await bot.send_message(7, "ab")
    assert server.drafts == {}
    with pytest.raises(TelegramBadRequest, match="TEXTDRAFT_PEER_INVALID"):
        await bot.send_message_draft(group.id, draft_id=5, text="a")
    with pytest.raises(TelegramBadRequest, match="non-zero"):
        await bot.send_message_draft(7, draft_id=0, text="a")
    server.draft_lifetime = 0.05
    await bot.send_message_draft(7, draft_id=5, text="a")
    await server.wait_for(lambda: 7 not in server.drafts, what="end of the draft")
    server.draft_errors = True
    with pytest.raises(TelegramBadRequest):
        await bot.send_message_draft(7, draft_id=5, text="a")


async def test_stop_button(server: TelegramServer, bot: Any) -> None:
    reader = server.user(7)
    await server.say(reader, "/start")
    await bot.send_message_draft(7, draft_id=5, text="a")
    with pytest.raises(AssertionError, match="no stop button"):
        await server.press_stop(reader)
    for keep in (True, False):
        await bot.send_message_draft(7, draft_id=5, text="a", can_stop=True, keep_on_stop=keep)
        await server.press_stop(reader)
        assert (7 in server.drafts) is keep
    stops = [update.stopped_message_generation for update in await bot.get_updates(offset=-2)]
    assert [(stop.chat.id, stop.draft_id) for stop in stops] == [(7, 5), (7, 5)]


async def test_callback_queries(server: TelegramServer, bot: Any) -> None:
    reader, group = server.user(7), server.group(-100)
    await server.say(reader, "/start", chat=group)
    sent = await bot.send_message(group.id, "text", reply_markup=keyboard("next", "Next"))
    with pytest.raises(AssertionError, match="no button 'other'"):
        await server.tap(reader, sent.message_id, "other", chat=group)
    query_id = await server.tap(reader, sent.message_id, "Next", chat=group)
    forged_id = await server.forge(reader, sent.message_id, "other", chat=group)
    tapped, forged = (update.callback_query for update in await bot.get_updates(offset=-2))
    assert (tapped.id, tapped.data, tapped.from_user.id) == (query_id, "next", 7)
    assert (forged.id, forged.data) == (forged_id, "other")
    assert (tapped.message.text, tapped.message.from_user.is_bot) == ("text", True)
    assert tapped.message.reply_markup.model_dump() == keyboard("next", "Next").model_dump()
    with pytest.raises(TelegramBadRequest, match="MESSAGE_TOO_LONG"):
        await bot.answer_callback_query(query_id, text="x" * 201)
    await bot.answer_callback_query(query_id, text="done", show_alert=True)
    with pytest.raises(TelegramBadRequest, match="query is too old"):
        await bot.answer_callback_query(query_id)
    (answer,) = server.answers
    assert (answer.id, answer.text, answer.show_alert) == (query_id, "done", True)


async def test_injected_faults(server: TelegramServer, bot: Any) -> None:
    await server.say(server.user(7), "/start")
    server.fail_next("sendMessage", retry_after=2)
    with pytest.raises(TelegramRetryAfter) as flood:
        await bot.send_message(7, "text")
    assert flood.value.retry_after == 2
    assert server.violations == []
    await bot.send_message(7, "text")
    assert [call.method for call in server.violations] == ["sendMessage"]
    server.fail_next("sendMessage", error_code=502)
    with pytest.raises(TelegramServerError, match="Bad Gateway"):
        await bot.send_message(7, "text")
    server.drop_next("sendMessage")
    with pytest.raises(TelegramNetworkError):
        await bot.send_message(7, "performed")
    assert server.messages(7)[-1].text == "performed"


async def test_commands_and_chat_actions(server: TelegramServer, bot: Any) -> None:
    commands = [BotCommand(command="start", description="Start")]
    scope = BotCommandScopeAllPrivateChats()
    await bot.set_my_commands(commands, scope=scope, language_code="en")
    (command,) = await bot.get_my_commands(scope=scope, language_code="en")
    assert (command.command, command.description) == ("start", "Start")
    assert await bot.get_my_commands() == []
    await bot.delete_my_commands(scope=scope, language_code="en")
    assert server.commands == {}
    with pytest.raises(TelegramBadRequest, match="BOT_COMMAND_INVALID"):
        await bot.set_my_commands([BotCommand(command="Start", description="Start")])
    await server.say(server.user(7), "/start")
    await bot.send_chat_action(7, "typing")
    with pytest.raises(TelegramBadRequest, match="wrong parameter action"):
        await bot.send_chat_action(7, "thinking")


async def test_a_polling_dispatcher(server: TelegramServer, bot: Any) -> None:
    dispatcher = Dispatcher()

    @dispatcher.message()
    async def on_message(message: Message) -> None:
        await message.answer("text", reply_markup=keyboard("next"))

    @dispatcher.callback_query()
    async def on_query(query: CallbackQuery) -> None:
        assert isinstance(query.message, Message)
        await query.message.edit_text(query.data)
        await query.answer("done")

    polling = asyncio.create_task(dispatcher.start_polling(bot, handle_signals=False))
    reader = server.user(7)
    await server.say(reader, "/start")
    await server.wait_for(lambda: len(server.messages(7)) == 2, what="answer")
    await server.tap(reader, server.messages(7)[-1].message_id, "Next")
    await server.wait_for(lambda: server.answers, what="callback answer")
    assert server.messages(7)[-1].text == "next"
    with pytest.raises(AssertionError, match=r"(?s)no miracle within 0.1 s.*user 7: '/start'"):
        await server.wait_for(lambda: False, timeout=0.1, what="miracle")
    await dispatcher.stop_polling()
    await polling


async def test_a_photo_arrives_with_its_bytes_and_caption(server: TelegramServer, bot: Any) -> None:
    await server.say(server.user(1), "hello")
    sent = await bot.send_photo(1, BufferedInputFile(PNG, "a.png"), caption="curve")
    assert sent.photo
    assert sent.caption == "curve"
    assert server.messages(1)[-1].picture == PNG


@pytest.mark.parametrize(
    ("content", "caption", "reason"),
    [(b"no picture", "", "IMAGE_PROCESS_FAILED"), (PNG, "я" * 1025, "caption is too long")],
)
async def test_a_photo_that_telegram_would_refuse_is_refused(
    server: TelegramServer, bot: Any, content: bytes, caption: str, reason: str
) -> None:
    await server.say(server.user(1), "hello")
    with pytest.raises(TelegramBadRequest, match=reason):
        await bot.send_photo(1, BufferedInputFile(content, "a.png"), caption=caption)
    assert not [m for m in server.messages(1) if m.from_bot]


async def test_commands_of_a_chat_need_the_chat(server: TelegramServer, bot: Any) -> None:
    commands = [BotCommand(command="model", description="versions")]
    with pytest.raises(TelegramBadRequest, match="chat not found"):
        await bot.set_my_commands(commands, scope=BotCommandScopeChat(chat_id=1))
    await server.say(server.user(1), "hello")
    assert await bot.set_my_commands(commands, scope=BotCommandScopeChat(chat_id=1))
