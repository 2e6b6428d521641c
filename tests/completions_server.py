"""A local server with OpenAI's streaming completions, as vLLM gives them, and its faults.

async with CompletionsServer() as server:
    server.faults += [refuse(503, retry_after="0.1"), DROP]  # for the next requests, in this order
    ...                                                      # an engine of server.url
    assert server.left == 1  # clients that closed the stream before its end

A word is a token here; what it writes is ``story_of`` the text and the seed.
"""

import asyncio
import json
from collections import deque
from typing import Any, Self

from aiohttp import web

from tests.openai_server import CUT, DROP, FINE, HANG, PAGE, Fault

JSON = dict[str, Any]
MODEL, ROOT = "toy", "/models/toy/0123456789ab"
BROKEN = Fault("broken")  # writes three words, and hangs up
OPENAI_FIELDS = {"model", "prompt", "stream", "max_tokens", "temperature", "top_p", "seed"}


def story_of(text: str, seed: int, words: int) -> str:
    """Return the server's continuation of so many words."""
    return "".join(f" слово{(seed + len(text) + i) % 97}" for i in range(words))


class CompletionsServer:
    def __init__(self, *, root: str | None = ROOT, context: int | None = 200) -> None:
        self.root, self.context = root, context
        self.story_words = 12
        self.pause = 0.0  # seconds before each word
        self.strict = False  # knows only OpenAI's own fields, and says so as transformers serve
        self.usage = True  # tells the tokens, to who asks
        self.key: str | None = None
        self.faults: deque[Fault] = deque()
        self.requests: list[JSON] = []
        self.left = self.busy = self.most_busy = 0
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/v1/models", self._list)
        app.router.add_post("/v1/completions", self._complete)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Be dead from now on."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _list(self, request: web.Request) -> web.Response:
        if self._is_stranger(request):
            return _error(401, "Unauthorized")
        model = {"id": MODEL, "object": "model", "created": 1, "owned_by": "vllm"}
        told = {"root": self.root, "max_model_len": self.context}
        model |= {name: value for name, value in told.items() if value is not None}
        return web.json_response({"object": "list", "data": [model]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        fault = self.faults.popleft() if self.faults else FINE
        if self._is_stranger(request):
            return _error(401, "Unauthorized")
        if fault.kind == "status":
            return _error(fault.status, fault.message, fault.headers)
        if fault == PAGE:
            return web.Response(text="<html>Welcome</html>", content_type="text/html")
        if fault == HANG:
            await asyncio.Event().wait()
        if fault == DROP:
            assert request.transport is not None
            request.transport.close()
        if self.strict and (strange := body.keys() - OPENAI_FIELDS):
            detail = f"Unexpected fields in the request: {strange}"
            return web.json_response({"detail": detail}, status=422)
        if body["model"] != MODEL:
            return _error(404, f"The model `{body['model']}` does not exist.")
        if self.context and len(body["prompt"].split()) > self.context:
            return _error(400, f"This model's maximum context length is {self.context} tokens.")
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        try:
            return await self._stream(request, body, fault)
        except (asyncio.CancelledError, ConnectionError):
            self.left += 1
            raise
        finally:
            self.busy -= 1

    async def _stream(self, request: web.Request, body: JSON, fault: Fault) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        words = min(self.story_words, body["max_tokens"])
        story = story_of(body["prompt"], body["seed"], words)
        for number, word in enumerate(story.split()):
            await asyncio.sleep(self.pause)
            if number == 3 and fault == BROKEN:
                assert request.transport is not None
                request.transport.close()
            await _send(response, [{"index": 0, "text": f" {word}", "finish_reason": None}])
        if fault == CUT:  # ends in peace, and has not said why
            return response
        reason = "stop" if words == self.story_words else "length"
        await _send(response, [{"index": 0, "text": "", "finish_reason": reason}])
        if self.usage and body.get("stream_options", {}).get("include_usage"):
            counts = {"prompt_tokens": len(body["prompt"].split()), "completion_tokens": words + 1}
            await _send(response, [], usage={**counts, "total_tokens": sum(counts.values())})
        await response.write(b"data: [DONE]\n\n")
        return response

    def _is_stranger(self, request: web.Request) -> bool:
        return self.key is not None and request.headers["Authorization"] != f"Bearer {self.key}"


async def _send(response: web.StreamResponse, choices: list[JSON], **more: Any) -> None:
    chunk = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": MODEL}
    data = json.dumps({**chunk, "choices": choices, **more}, ensure_ascii=False)
    await response.write(f"data: {data}\n\n".encode())


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
    return web.json_response({"error": error}, status=status, headers=headers)
