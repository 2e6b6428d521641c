"""A local server with the part of OpenAI's API that writes stories, and its faults, for tests.

async with OpenAIServer() as server:
    server.faults += [refuse(429, retry_after="2"), CUT]   # for the next requests, in this order
    ...                                                    # a client of server.url, key server.key
    assert server.billed == 3

It bills like OpenAI: an answer is paid for when it is written, whether or not it is received; a
refusal costs nothing; a batch costs the same tokens. https://developers.openai.com/api/reference
"""

import asyncio
import json
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

JSON = dict[str, Any]
PROMPT_TOKENS, STORY_TOKENS = 100, 50  # of every request and every whole answer


@dataclass(frozen=True)
class Fault:
    """What befalls one request in place of a whole answer."""

    kind: str  # status, or one of the names below
    status: int = 200
    message: str = ""
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


def refuse(
    status: int, message: str = "no", *, code: str | None = None, retry_after: str | None = None
) -> Fault:
    """Return a fault that answers with an error status, and costs nothing."""
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return Fault("status", status, message, code, headers)


FINE = Fault("fine")  # none at all: it holds a place in the line
HANG = Fault("hang")  # writes the answer, and never sends it
DROP = Fault("drop")  # writes the answer, and hangs up
CUT = Fault("length")  # stops in the middle, at the limit of tokens
EMPTY = Fault("empty")  # ends properly, with no text
FILTERED = Fault("filter")  # finish_reason content_filter
GARBAGE = Fault("garbage")  # says it is JSON
PAGE = Fault("page")  # a web page, as from a wrong address
UNSAID = Fault("unsaid")  # a whole answer that does not say what it used


def story_for(prompt: str) -> str:
    """Return the story that the server writes for a user's message."""
    return f"Дождь шёл с утра. Вот и всё, что можно рассказать; а просили так: {prompt}"


class OpenAIServer:
    def __init__(self, key: str = "sk-test") -> None:
        self.key = key
        self.delay = 0.0  # seconds of writing an answer
        self.hold_after: int | None = None  # later answers are not ready until this is None
        self.url = ""
        self.faults: deque[Fault] = deque()  # for answers, asked alone or in a batch
        self.other_faults: deque[Fault] = deque()  # for files and batches
        self.requests: list[JSON] = []  # the body of every request for an answer
        self.billed = 0
        self.billed_prompts: Counter[str] = Counter()
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.at_once = 0
        self.most_at_once = 0
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, JSON] = {}
        self.calls: list[str] = []  # "POST /v1/files" and so on, without the answers' own
        self.batch_end = "completed"  # or failed, expired, cancelled
        self.batch_answers: int | None = None  # so many of a batch's requests are got to
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 28)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/v1/files", self._take_file)
        app.router.add_get("/v1/files/{id}/content", self._give_file)
        app.router.add_post("/v1/batches", self._make_batch)
        app.router.add_get("/v1/batches", self._list_batches)
        app.router.add_get("/v1/batches/{id}", self._give_batch)
        # A client that has gone must end its request, or the server would wait for it to close.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    # Answers.

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        if refused := self._stranger(request):
            return refused
        body = await request.json()
        self.requests.append(body)
        number = len(self.requests)
        fault = self.faults.popleft() if self.faults else FINE
        if fault.kind == "status":
            return self._error(fault)
        if fault.kind == "page":
            return web.Response(text="<html>Welcome</html>", content_type="text/html")
        # A model goes on writing, and billing, for a client that has gone.
        answer = await asyncio.shield(asyncio.create_task(self._think(number, body, fault)))
        if fault.kind == "hang":
            await asyncio.Event().wait()
        if fault.kind == "drop":
            assert request.transport is not None
            request.transport.close()
        if fault.kind == "garbage":
            return web.Response(text='{"id": ', content_type="application/json")
        return web.json_response(answer)

    async def _think(self, number: int, body: JSON, fault: Fault) -> JSON:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self.delay)
        while self.hold_after is not None and number > self.hold_after:
            await asyncio.sleep(0.002)
        self.at_once -= 1
        return self._write(body, fault)

    def _write(self, body: JSON, fault: Fault) -> JSON:
        """Write an answer, and bill it."""
        prompt = body["messages"][-1]["content"]
        text, reason, tokens = story_for(prompt), "stop", STORY_TOKENS
        if fault.kind == "length":
            text, reason, tokens = text[:20], "length", body["max_completion_tokens"]
        elif fault.kind in ("empty", "filter"):
            text, reason, tokens = "", "stop" if fault.kind == "empty" else "content_filter", 1
        self.billed += 1
        self.billed_prompts[prompt] += 1
        self.prompt_tokens += PROMPT_TOKENS
        self.completion_tokens += tokens
        usage = {
            "prompt_tokens": PROMPT_TOKENS,
            "completion_tokens": tokens,
            "total_tokens": PROMPT_TOKENS + tokens,
        }
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
        return {
            "id": f"chatcmpl-{self.billed}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": f"{body['model']}-2024",
            "choices": [choice],
            **({} if fault.kind == "unsaid" else {"usage": usage}),
        }

    # Files and batches.

    async def _take_file(self, request: web.Request) -> web.Response:
        if refused := self._trouble(request):
            return refused
        form = await request.post()
        assert form["purpose"] == "batch"
        upload = form["file"]
        assert isinstance(upload, web.FileField)
        return web.json_response(self._keep(upload.file.read()))

    def _keep(self, content: bytes) -> JSON:
        name = f"file-{len(self.files) + 1}"
        self.files[name] = content
        return {
            "id": name,
            "object": "file",
            "bytes": len(content),
            "created_at": int(time.time()),
            "filename": "stories.jsonl",
            "purpose": "batch",
            "status": "processed",
        }

    async def _give_file(self, request: web.Request) -> web.Response:
        if refused := self._trouble(request):
            return refused
        return web.Response(body=self.files[request.match_info["id"]])

    async def _make_batch(self, request: web.Request) -> web.Response:
        if self.other_faults and self.other_faults[0] == DROP:
            await self._add_batch(request)
        if refused := self._trouble(request):
            return refused
        return web.json_response(await self._add_batch(request))

    async def _add_batch(self, request: web.Request) -> JSON:
        asked = await request.json()
        total = len(self.files[asked["input_file_id"]].splitlines())
        batch = {
            **asked,
            "id": f"batch_{len(self.batches) + 1}",
            "object": "batch",
            "created_at": int(time.time()),
            "status": "validating",
            "request_counts": {"total": total, "completed": 0, "failed": 0},
        }
        self.batches[batch["id"]] = batch
        return batch

    async def _list_batches(self, request: web.Request) -> web.Response:
        if refused := self._trouble(request):
            return refused
        data = list(reversed(self.batches.values()))
        return web.json_response({"object": "list", "data": data, "has_more": False})

    async def _give_batch(self, request: web.Request) -> web.Response:
        """Show a batch; every look finds it a step further."""
        if refused := self._trouble(request):
            return refused
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return self._error(refuse(404, "No batch found with that id."))
        if batch["status"] == "validating" and self.batch_end != "failed":
            batch["status"] = "in_progress"
        elif batch["status"] in ("validating", "in_progress"):
            self._end(batch)
        return web.json_response(batch)

    def _end(self, batch: JSON) -> None:
        batch["status"] = self.batch_end
        if self.batch_end == "failed":
            error = {"code": "invalid", "message": "The model does not exist.", "line": 1}
            batch["errors"] = {"object": "list", "data": [error]}
            return
        results, errors = [], []
        lines = self.files[batch["input_file_id"]].decode().split("\n")[:-1]
        reach = len(lines) if self.batch_answers is None else self.batch_answers
        for number, line in enumerate(map(json.loads, lines)):
            fault = self.faults.popleft() if self.faults else FINE
            row = {"id": f"r{number}", "custom_id": line["custom_id"], "error": None}
            if number >= reach:
                error = {"code": "batch_expired", "message": "This request was not executed."}
                errors.append({**row, "response": None, "error": error})
            elif fault.kind == "status":
                body = {"error": {"message": fault.message, "code": fault.code}}
                errors.append({**row, "response": {"status_code": fault.status, "body": body}})
            else:
                body = self._write(line["body"], fault)
                results.append({**row, "response": {"status_code": 200, "body": body}})
        for kind, rows in (("output", results), ("error", errors)):
            if rows:
                text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                batch[f"{kind}_file_id"] = self._keep(text.encode())["id"]
        counts = {"total": len(lines), "completed": len(results), "failed": len(errors)}
        batch["request_counts"] = counts

    # Refusals.

    def _trouble(self, request: web.Request) -> web.Response | None:
        self.calls.append(f"{request.method} {request.path}")
        if not self.other_faults:
            return self._stranger(request)
        fault = self.other_faults.popleft()
        if fault == FINE:
            return self._stranger(request)
        if fault == DROP:
            assert request.transport is not None
            request.transport.close()
        return self._error(fault)

    def _stranger(self, request: web.Request) -> web.Response | None:
        if request.headers.get("Authorization") == f"Bearer {self.key}":
            return None
        return self._error(refuse(401, "Incorrect API key provided.", code="invalid_api_key"))

    def _error(self, fault: Fault) -> web.Response:
        error = {"message": fault.message, "type": "error", "param": None, "code": fault.code}
        return web.json_response({"error": error}, status=fault.status, headers=fault.headers)
