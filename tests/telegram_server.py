"""A local Telegram Bot API server for tests: real HTTP, Telegram's rules, no Telegram.

A bot process is pointed at `TelegramServer.url`; the test plays the people (`say`, `tap`,
`press_stop`) and looks at what they would see (`messages`, `drafts`, `answers`). A request that
Telegram would refuse is refused here with the same status and description.

Rules: https://core.telegram.org/bots/api; where it is silent, the published server
(github.com/tdlib/telegram-bot-api, Client.cpp) and parser (github.com/tdlib/td,
MessageEntity.cpp).
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import json
import re
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Self, TypeVar

from aiohttp import web

JSON = dict[str, Any]
T = TypeVar("T")

JSON_FIELDS = frozenset(
    {"allowed_updates", "commands", "entities", "reply_markup", "reply_parameters", "scope"}
)
# The kinds that getUpdates sends only when they are named.
NAMED_ONLY = frozenset({"chat_member", "message_reaction", "message_reaction_count"})
CHAT_ACTION = re.compile(
    "typing|choose_sticker|find_location|upload_(photo|document)"
    "|(record|upload)_(video|voice|video_note)"
)
CONFLICT = (
    "Conflict: terminated by other getUpdates request; "
    "make sure that only one bot instance is running"
)
NOT_MODIFIED = (
    "message is not modified: specified new message content and reply markup are exactly "
    "the same as a current content and reply markup of the message"
)
ENTITY_TYPES = {
    **dict.fromkeys(("b", "strong"), "bold"),
    **dict.fromkeys(("i", "em"), "italic"),
    **dict.fromkeys(("u", "ins"), "underline"),
    **dict.fromkeys(("s", "strike", "del"), "strikethrough"),
    **dict.fromkeys(("tg-spoiler", "span"), "spoiler"),
    "a": "text_link",
    "blockquote": "blockquote",
    "code": "code",
    "pre": "pre",
}
HTML_TOKEN = re.compile(
    r"""(?P<text>[^<]+)|<(?P<slash>/?)(?P<name>[^\s>]*)
    (?P<attributes>(?:\s+[^\s=>]+(?:\s*=\s*(?:"[^"]*"|'[^']*'|[\w.-]+))?)*)\s*(?P<end>>?)""",
    re.VERBOSE,
)
# Telegram decodes four named references and the numeric ones; the others stay as they are.
REFERENCE = re.compile(r"&(?:(?:lt|gt|amp|quot)(?![a-zA-Z])|#\d+|#x[0-9a-fA-F]+);?")


class ApiError(Exception):
    def __init__(self, code: int, description: str, retry_after: int | None = None) -> None:
        super().__init__(description)
        self.code, self.description, self.retry_after = code, description, retry_after

    def body(self) -> JSON:
        body: JSON = {"ok": False, "error_code": self.code, "description": self.description}
        if self.retry_after is not None:
            body["parameters"] = {"retry_after": self.retry_after}
        return body


@dataclass(frozen=True)
class User:
    id: int
    language_code: str
    first_name: str

    def as_sender(self) -> JSON:
        return {**vars(self), "is_bot": False}

    def as_chat(self) -> JSON:
        return {"id": self.id, "type": "private", "first_name": self.first_name}


@dataclass(frozen=True)
class Group:
    id: int
    title: str

    def as_chat(self) -> JSON:
        return {"id": self.id, "type": "supergroup", "title": self.title}


@dataclass
class Message:
    message_id: int
    chat_id: int
    sender: JSON
    date: int
    text: str = ""
    html: str = ""
    entities: list[JSON] = field(default_factory=list)
    reply_markup: JSON | None = None
    reply_to: int | None = None
    media: JSON = field(default_factory=dict)
    picture: bytes = b""
    edits: int = 0

    @property
    def from_bot(self) -> bool:
        return bool(self.sender["is_bot"])

    @property
    def buttons(self) -> list[JSON]:
        """The inline buttons, row by row."""
        return [one for row in (self.reply_markup or {}).get("inline_keyboard", []) for one in row]


@dataclass
class Draft:
    chat_id: int
    draft_id: int
    text: str
    html: str
    can_stop: bool
    keep_on_stop: bool
    expires_at: float
    updates: int = 1
    stopped: bool = False


@dataclass(frozen=True)
class Answer:
    id: str
    text: str
    show_alert: bool


@dataclass(frozen=True)
class Call:
    method: str
    params: JSON
    chat_id: int | None
    ok: bool
    error_code: int | None
    at: float


def bad_request(description: str) -> ApiError:
    return ApiError(400, f"Bad Request: {description}")


def utf16_length(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def parse_html(source: str) -> tuple[str, list[JSON]]:
    """The text and entities of Telegram's HTML style (parse_html of MessageEntity.cpp)."""
    text = ""
    entities: list[JSON] = []
    opened: list[tuple[str, JSON]] = []
    for token in HTML_TOKEN.finditer(source):
        if token["text"]:
            text += REFERENCE.sub(lambda found: html.unescape(found[0]), token["text"])
        elif token["slash"]:
            _check_end_tag(token, opened[-1][0] if opened else None)
            entity = opened.pop()[1]
            entities.append({**entity, "length": utf16_length(text) - entity["offset"]})
        else:
            entity = _start_tag(token)
            opened.append((token["name"].lower(), {**entity, "offset": utf16_length(text)}))
    if opened:
        raise _unparsed(f'Can\'t find end tag corresponding to start tag "{opened[-1][0]}"')
    return text, sorted(entities, key=lambda entity: (entity["offset"], -entity["length"]))


def _unparsed(reason: str, token: re.Match[str] | None = None) -> ApiError:
    if token:
        reason += f" at byte offset {len(token.string[: token.start()].encode())}"
    return bad_request(f"can't parse entities: {reason}")


def _start_tag(token: re.Match[str]) -> JSON:
    name, attributes = token["name"].lower(), token["attributes"]
    if name not in ENTITY_TYPES:
        raise _unparsed(f'Unsupported start tag "{name}"', token)
    if not token["end"]:
        raise _unparsed("Unclosed start tag", token)
    if name == "span" and not re.search(r"""\sclass\s*=\s*["']?tg-spoiler\b""", attributes):
        raise _unparsed('Tag "span" must have class "tg-spoiler"', token)
    entity = {"type": ENTITY_TYPES[name]}
    if name == "a" and (link := re.search(r"""\shref\s*=\s*["']?([^"']+)""", attributes)):
        entity["url"] = html.unescape(link[1])
    return entity


def _check_end_tag(token: re.Match[str], expected: str | None) -> None:
    name = token["name"].lower()
    if expected is None:
        raise _unparsed("Unexpected end tag", token)
    if token["attributes"] or not token["end"]:
        raise _unparsed("Unclosed end tag", token)
    if name not in ("", expected):
        raise _unparsed(f'Unmatched end tag "</{name}>", expected "</{expected}>"', token)


def read_text(params: JSON, *, may_be_empty: bool = False) -> tuple[str, list[JSON]]:
    mode = params.get("parse_mode", "").lower()
    if mode not in ("", "html"):
        raise bad_request("unsupported parse_mode")
    raw = params.get("text", "")
    text, entities = parse_html(raw) if mode else (raw, params.get("entities", []))
    stripped = text.strip()
    size = utf16_length(stripped)
    if not size and not may_be_empty:
        raise bad_request("message text is empty")
    if size > 4096:
        raise bad_request("message is too long")
    return stripped, _clip(entities, utf16_length(text) - utf16_length(text.lstrip()), size)


def _clip(entities: list[JSON], cut: int, size: int) -> list[JSON]:
    clipped = []
    for entity in entities:
        start = max(entity["offset"] - cut, 0)
        end = min(entity["offset"] + entity["length"] - cut, size)
        if end > start:
            clipped.append({**entity, "offset": start, "length": end - start})
    return clipped


def read_markup(params: JSON) -> JSON | None:
    markup: JSON = params.get("reply_markup") or {}
    rows = [row for row in markup.get("inline_keyboard", []) if row]
    for button in (button for row in rows for button in row):
        if not button.keys() - {"text", "style", "icon_custom_emoji_id"}:
            raise bad_request("Text buttons are unallowed in the inline keyboard")
        if not 1 <= len(button.get("callback_data", "-").encode()) <= 64:
            raise bad_request("BUTTON_DATA_INVALID")
    if "inline_keyboard" in markup:
        return {"inline_keyboard": rows} if rows else None
    return markup or None


def read_integer(params: JSON, name: str, default: int | None = None) -> int:
    try:
        return int(params[name])
    except KeyError:
        if default is not None:
            return default
        raise bad_request(f"{name} is empty") from None
    except ValueError:
        raise bad_request(f"{name} is invalid") from None


def read_flag(params: JSON, name: str) -> bool:
    return str(params.get(name, "")).lower() in ("true", "yes", "1")


async def read_params(request: web.Request) -> JSON:
    params: JSON = dict(request.query)
    as_json = request.content_type == "application/json"
    params.update(await request.json() if as_json else await request.post())
    for name in JSON_FIELDS & params.keys():
        if isinstance(params[name], str):
            try:
                params[name] = json.loads(params[name])
            except json.JSONDecodeError:
                raise bad_request(f"can't parse {name} JSON object") from None
    return params


class TelegramServer:
    def __init__(
        self,
        token: str,
        *,
        draft_errors: bool = False,
        draft_lifetime: float = 30.0,
        enforce_retry_after: bool = True,
    ) -> None:
        self.token = token
        self.draft_errors = draft_errors
        self.draft_lifetime = draft_lifetime
        self.enforce_retry_after = enforce_retry_after
        self.url = ""
        self.calls: list[Call] = []
        self.violations: list[Call] = []
        self.answers: list[Answer] = []
        self.commands: dict[tuple[str, str], list[JSON]] = {}
        self.me: JSON = {
            "id": int(token.split(":")[0]),
            "is_bot": True,
            "first_name": "Bot",
            "username": "local_test_bot",
        }
        self._chats: dict[int, JSON] = {}
        self._messages: dict[tuple[int, int], Message] = {}
        self._message_ids: Counter[int] = Counter()
        self._drafts: dict[int, Draft] = {}
        self._updates: deque[JSON] = deque()
        self._update_id = 1_000_000
        self._allowed: frozenset[str] = frozenset()
        self._poll: asyncio.Future[bool] | None = None
        self._open_queries: set[str] = set()
        self._query_id = 0
        self._faults: defaultdict[str, deque[ApiError]] = defaultdict(deque)
        self._drops: Counter[str] = Counter()
        self._blocked_until: dict[int, float] = {}
        self._methods = self._bind_methods()
        self._runner: web.AppRunner | None = None

    def _bind_methods(self) -> dict[str, tuple[str, Callable[[JSON], Awaitable[Any]]]]:
        methods: dict[str, Callable[[JSON], Awaitable[Any]]] = {
            "getMe": self._get_me,
            "getUpdates": self._get_updates,
            "deleteWebhook": self._delete_webhook,
            "setMyCommands": self._set_my_commands,
            "getMyCommands": self._get_my_commands,
            "deleteMyCommands": self._delete_my_commands,
            "sendMessage": self._send_message,
            "sendMessageDraft": self._send_message_draft,
            "sendPhoto": self._send_photo,
            "sendChatAction": self._send_chat_action,
            "editMessageText": self._edit_message_text,
            "editMessageReplyMarkup": self._edit_message_reply_markup,
            "deleteMessage": self._delete_message,
            "answerCallbackQuery": self._answer_callback_query,
        }
        return {name.lower(): (name, method) for name, method in methods.items()}

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/bot{token}/{method}", self._handle)
        # A poll whose client has gone must end: it would otherwise meet the next one as a conflict.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    # The HTTP side.

    async def _handle(self, request: web.Request) -> web.Response:
        at = time.monotonic()
        asked = request.match_info["method"]
        name, method = self._methods.get(asked.lower(), (asked, None))
        params: JSON = {}
        error: ApiError | None = None
        try:
            params = await read_params(request)
            self._refuse(request.match_info["token"], name, method)
            body: JSON = {"ok": True, "result": await method(params) if method else None}
        except ApiError as refusal:
            error, body = refusal, refusal.body()
        self._record(name, params, error, at)
        if self._drops[name] and request.transport is not None:
            self._drops[name] -= 1
            request.transport.abort()
        return web.json_response(body, status=error.code if error else 200)

    def _refuse(self, token: str, name: str, method: object) -> None:
        if token != self.token:
            raise ApiError(401, "Unauthorized")
        if method is None:
            raise ApiError(404, "Not Found")
        if self._faults[name]:
            raise self._faults[name].popleft()

    def _record(self, name: str, params: JSON, error: ApiError | None, at: float) -> None:
        chat = str(params.get("chat_id", ""))
        chat_id = int(chat) if re.fullmatch(r"-?\d+", chat) else None
        call = Call(name, params, chat_id, error is None, error.code if error else None, at)
        self.calls.append(call)
        if chat_id is None:
            return
        if self.enforce_retry_after and at < self._blocked_until.get(chat_id, 0.0):
            self.violations.append(call)
        if error and error.retry_after is not None:
            self._blocked_until[chat_id] = time.monotonic() + error.retry_after

    # Updates.

    async def _get_me(self, _: JSON) -> JSON:
        return {**self.me, "can_join_groups": True, "can_read_all_group_messages": True}

    async def _get_updates(self, params: JSON) -> list[JSON]:
        # An absent field keeps the previous setting; an empty list means the default set.
        self._allowed = frozenset(params.get("allowed_updates", self._allowed))
        offset = read_integer(params, "offset", 0)
        limit = min(max(read_integer(params, "limit", 100), 1), 100)
        timeout = read_integer(params, "timeout", 0)
        kept = -offset if offset < 0 else len(self._updates)
        while self._updates and (
            self._updates[0]["update_id"] < offset or len(self._updates) > kept
        ):
            self._updates.popleft()
        if not self._updates and timeout > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._next_update()
        return list(self._updates)[:limit]

    async def _next_update(self) -> None:
        self._end_poll(by_update=False)
        self._poll = asyncio.get_running_loop().create_future()
        if not await self._poll:
            raise ApiError(409, CONFLICT)

    def _end_poll(self, *, by_update: bool) -> None:
        if self._poll is not None and not self._poll.done():
            self._poll.set_result(by_update)

    def push_update(self, kind: str, payload: JSON) -> None:
        """Queue an update, unless its kind is not allowed now (Telegram decides at this moment)."""
        if kind in self._allowed or not (self._allowed or kind in NAMED_ONLY):
            self._update_id += 1
            self._updates.append({"update_id": self._update_id, kind: payload})
            self._end_poll(by_update=True)

    async def _delete_webhook(self, params: JSON) -> bool:
        if read_flag(params, "drop_pending_updates"):
            self._updates.clear()
        return True

    # Commands.

    def _scope(self, params: JSON) -> tuple[str, str]:
        scope = params.get("scope", {"type": "default"})
        return json.dumps(scope, sort_keys=True), params.get("language_code", "")

    async def _set_my_commands(self, params: JSON) -> bool:
        commands: list[JSON] = params.get("commands", [])
        if len(commands) > 100:
            raise bad_request("BOT_COMMANDS_TOO_MUCH")
        for command in commands:
            if not re.fullmatch(r"[a-z0-9_]{1,32}", command["command"]):
                raise bad_request("BOT_COMMAND_INVALID")
            if not 1 <= len(command["description"]) <= 256:
                raise bad_request("BOT_COMMAND_DESCRIPTION_INVALID")
        scope: JSON = params.get("scope", {})
        if scope.get("type") == "chat":
            self._chat(scope)
        self.commands[self._scope(params)] = commands
        return True

    async def _get_my_commands(self, params: JSON) -> list[JSON]:
        return self.commands.get(self._scope(params), [])

    async def _delete_my_commands(self, params: JSON) -> bool:
        self.commands.pop(self._scope(params), None)
        return True

    # Messages.

    def _chat(self, params: JSON) -> JSON:
        try:
            return self._chats[read_integer(params, "chat_id")]
        except KeyError:
            raise bad_request("chat not found") from None

    def _message(self, params: JSON, purpose: str) -> Message:
        key = self._chat(params)["id"], read_integer(params, "message_id")
        if key not in self._messages:
            raise bad_request(f"message to {purpose} not found")
        message = self._messages[key]
        if message.from_bot:
            return message
        if purpose == "edit":
            raise bad_request("message can't be edited")
        # Of other people's messages in a group, only an administrator deletes any.
        if self._chats[message.chat_id]["type"] != "private":
            raise bad_request("message can't be deleted")
        return message

    def _post(self, chat: JSON, sender: JSON, **content: Any) -> Message:
        # A supergroup numbers its messages by itself, the private chats share one sequence.
        sequence = chat["id"] if chat["type"] == "supergroup" else 0
        self._message_ids[sequence] += 1
        message_id = self._message_ids[sequence]
        message = Message(message_id, chat["id"], sender, int(time.time()), **content)
        self._messages[message.chat_id, message_id] = message
        return message

    def _render(self, message: Message, *, with_reply: bool = True) -> JSON:
        body: JSON = {
            "message_id": message.message_id,
            "from": message.sender,
            "chat": self._chats[message.chat_id],
            "date": message.date,
            **message.media,
        }
        if message.text:
            body |= {"text": message.text, "entities": message.entities}
        if message.buttons:
            body["reply_markup"] = message.reply_markup
        if message.edits:
            body["edit_date"] = int(time.time())
        # Telegram nests one level of replies and leaves out a deleted message.
        replied = self._messages.get((message.chat_id, message.reply_to or 0))
        if with_reply and replied:
            body["reply_to_message"] = self._render(replied, with_reply=False)
        return body

    def _reply_target(self, params: JSON, chat_id: int) -> int | None:
        reply: JSON = params.get("reply_parameters", {})
        if not reply:
            return None
        message_id = read_integer(reply, "message_id")
        if (chat_id, message_id) in self._messages:
            return message_id
        if read_flag(reply, "allow_sending_without_reply"):
            return None
        raise bad_request("message to be replied not found")

    async def _send_message(self, params: JSON) -> JSON:
        chat = self._chat(params)
        text, entities = read_text(params)
        message = self._post(
            chat,
            self.me,
            reply_markup=read_markup(params),
            reply_to=self._reply_target(params, chat["id"]),
            text=text,
            html=params["text"],
            entities=entities,
        )
        self._drafts.pop(chat["id"], None)
        return self._render(message)

    async def _send_photo(self, params: JSON) -> JSON:
        chat = self._chat(params)
        upload = params.get(params.get("photo", "").removeprefix("attach://"))
        if not isinstance(upload, web.FileField):
            raise bad_request("there is no photo in the request")
        with upload.file as file:
            picture = file.read()
        if not picture.startswith((b"\x89PNG\r\n", b"\xff\xd8\xff")):
            raise bad_request("IMAGE_PROCESS_FAILED")
        caption = params.get("caption", "")
        if utf16_length(caption) > 1024:
            raise bad_request("message caption is too long")
        size = {"file_id": "photo", "file_unique_id": "photo", "width": 1, "height": 1}
        message = self._post(
            chat,
            self.me,
            reply_markup=read_markup(params),
            reply_to=self._reply_target(params, chat["id"]),
            media={"photo": [size], "caption": caption},
            picture=picture,
        )
        return self._render(message)

    async def _send_message_draft(self, params: JSON) -> bool:
        chat = self._chat(params)
        if self.draft_errors or chat["type"] != "private":
            raise bad_request("TEXTDRAFT_PEER_INVALID")
        draft_id = read_integer(params, "draft_id", 0)
        if draft_id == 0:
            raise bad_request("draft_id must be non-zero")
        text, _ = read_text(params, may_be_empty=True)
        previous = self.drafts.get(chat["id"])
        continues = previous is not None and previous.draft_id == draft_id
        self._drafts[chat["id"]] = Draft(
            chat_id=chat["id"],
            draft_id=draft_id,
            text=text,
            html=params.get("text", ""),
            can_stop=read_flag(params, "can_stop"),
            keep_on_stop=read_flag(params, "keep_on_stop"),
            expires_at=time.monotonic() + self.draft_lifetime,
            updates=previous.updates + 1 if previous and continues else 1,
        )
        return True

    async def _send_chat_action(self, params: JSON) -> bool:
        self._chat(params)
        if not CHAT_ACTION.fullmatch(params.get("action", "")):
            raise bad_request("wrong parameter action in request")
        return True

    async def _edit_message_text(self, params: JSON) -> JSON:
        message = self._message(params, "edit")
        text, entities = read_text(params)
        # Absent markup removes the keyboard.
        shown = {"text": text, "entities": entities, "reply_markup": read_markup(params)}
        edited = self._edit(message, shown)
        message.html = params["text"]
        return edited

    async def _edit_message_reply_markup(self, params: JSON) -> JSON:
        message = self._message(params, "edit")
        return self._edit(message, {"reply_markup": read_markup(params)})

    def _edit(self, message: Message, shown: JSON) -> JSON:
        if all(getattr(message, name) == value for name, value in shown.items()):
            raise bad_request(NOT_MODIFIED)
        for name, value in shown.items():
            setattr(message, name, value)
        message.edits += 1
        return self._render(message)

    async def _delete_message(self, params: JSON) -> bool:
        message = self._message(params, "delete")
        del self._messages[message.chat_id, message.message_id]
        return True

    async def _answer_callback_query(self, params: JSON) -> bool:
        query_id, text = params.get("callback_query_id", ""), params.get("text", "")
        if query_id not in self._open_queries:
            raise bad_request(
                "query is too old and response timeout expired or query ID is invalid"
            )
        if len(text) > 200:
            raise bad_request("MESSAGE_TOO_LONG")
        self._open_queries.remove(query_id)
        self.answers.append(Answer(query_id, text, read_flag(params, "show_alert")))
        return True

    # Faults.

    def fail_next(
        self,
        method: str,
        times: int = 1,
        error_code: int = 429,
        description: str | None = None,
        retry_after: int = 1,
    ) -> None:
        """Refuse the next calls of a method; `retry_after` is sent with 429 only."""
        flood = error_code == 429
        default = f"Too Many Requests: retry after {retry_after}"
        text = description or (default if flood else HTTPStatus(error_code).phrase)
        error = ApiError(error_code, text, retry_after if flood else None)
        self._faults[self._methods[method.lower()][0]].extend([error] * times)

    def drop_next(self, method: str, times: int = 1) -> None:
        """Perform the next calls of a method, but close the connection without an answer."""
        self._drops[self._methods[method.lower()][0]] += times

    # The people's side.

    def user(self, user_id: int, language_code: str = "ru", first_name: str = "Reader") -> User:
        """A person; the bot can write to them only after they wrote to it."""
        return User(user_id, language_code, first_name)

    def group(self, chat_id: int, title: str = "Group") -> Group:
        """A supergroup (negative id) with the bot in it, as a member that sees every message."""
        group = Group(chat_id, title)
        self._chats[chat_id] = group.as_chat()
        return group

    async def say(
        self, user: User, text: str, chat: Group | None = None, reply_to: int | None = None
    ) -> Message:
        entities = []
        if command := re.match(r"/\w+(@\w+)?", text):
            entities.append({"type": "bot_command", "offset": 0, "length": command.end()})
        return self._write(user, chat, text=text, html=text, entities=entities, reply_to=reply_to)

    async def sticker(self, user: User, chat: Group | None = None) -> Message:
        kind = {"type": "regular", "is_animated": False, "is_video": False}
        file = {"file_id": "sticker", "file_unique_id": "sticker", "width": 512, "height": 512}
        return self._write(user, chat, media={"sticker": {**file, **kind}})

    async def voice(self, user: User, chat: Group | None = None) -> Message:
        voice = {"file_id": "voice", "file_unique_id": "voice", "duration": 3}
        return self._write(user, chat, media={"voice": voice})

    def _write(self, user: User, chat: Group | None, **content: Any) -> Message:
        place = self._chats[(chat or user).id] = (chat or user).as_chat()
        message = self._post(place, user.as_sender(), **content)
        self.push_update("message", self._render(message))
        return message

    async def tap(self, user: User, message_id: int, button: str, chat: Group | None = None) -> str:
        """Press a button that is on the message, named by its data or its text."""
        message = self._visible(chat or user, message_id)
        for shown in message.buttons:
            if "callback_data" in shown and button in (shown["callback_data"], shown["text"]):
                return await self.forge(user, message_id, shown["callback_data"], chat)
        raise AssertionError(f"no button {button!r} on message {message_id}\n{self.dump()}")

    async def forge(self, user: User, message_id: int, data: str, chat: Group | None = None) -> str:
        """Send any callback data for a message of the bot, as a modified client can."""
        message = self._visible(chat or user, message_id)
        assert message.from_bot, f"message {message_id} is not the bot's"
        self._query_id += 1
        query_id = str(self._query_id)
        self._open_queries.add(query_id)
        query = {
            "id": query_id,
            "from": user.as_sender(),
            "chat_instance": str(message.chat_id),
            "message": self._render(message),
            "data": data,
        }
        self.push_update("callback_query", query)
        return query_id

    def _visible(self, place: User | Group, message_id: int) -> Message:
        message = self._messages.get((place.id, message_id))
        assert message is not None, f"no message {message_id} in {place.id}\n{self.dump()}"
        return message

    async def press_stop(self, user: User) -> None:
        """Press the stop button of the draft that streams in the private chat."""
        draft = self.drafts.get(user.id)
        if draft is None or draft.stopped or not draft.can_stop:
            raise AssertionError(f"no stop button\n{self.dump()}")
        draft.stopped = True
        if not draft.keep_on_stop:
            del self._drafts[user.id]
        stopped = {"chat": self._chats[user.id], "draft_id": draft.draft_id}
        self.push_update("stopped_message_generation", stopped)

    # The spectator's side.

    def messages(self, chat_id: int) -> list[Message]:
        """The messages that are in a chat now, in the order of sending."""
        return [message for message in self._messages.values() if message.chat_id == chat_id]

    @property
    def drafts(self) -> dict[int, Draft]:
        """The drafts on screen, by chat; a draft not renewed in `draft_lifetime` has vanished."""
        now = time.monotonic()
        return {chat: draft for chat, draft in self._drafts.items() if now < draft.expires_at}

    def wait_for(
        self, predicate: Callable[[], T], timeout: float = 10.0, what: str = "condition"
    ) -> Awaitable[T]:
        """The first true value of `predicate`, polled every 20 ms."""
        deadline = time.monotonic() + timeout
        return self._wait_until(deadline, predicate, f"no {what} within {timeout} s")

    async def _wait_until(self, deadline: float, predicate: Callable[[], T], failure: str) -> T:
        while not (value := predicate()):
            if time.monotonic() > deadline:
                raise AssertionError(f"{failure}\n{self.dump()}")
            await asyncio.sleep(0.02)
        return value

    def dump(self) -> str:
        """What the chats show and what the bot asked last, for failure messages."""
        lines = []
        for chat_id, chat in self._chats.items():
            lines.append(f"chat {chat_id} ({chat['type']})")
            for message in self.messages(chat_id):
                author = "bot" if message.from_bot else f"user {message.sender['id']}"
                labels = [button["text"] for button in message.buttons]
                content = repr(message.text) if message.text else f"<{', '.join(message.media)}>"
                lines.append(f"  {message.message_id} {author}: {content} {labels or ''}")
            if draft := self.drafts.get(chat_id):
                lines.append(f"  draft {draft.draft_id}: {draft.text!r}")
        asked = [call for call in self.calls if call.method != "getUpdates"][-10:]
        lines += [f"call {call.method} {call.chat_id} error={call.error_code}" for call in asked]
        return "\n".join(lines)
