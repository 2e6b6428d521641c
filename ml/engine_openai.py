"""The engine for models that other machines run: any servers with OpenAI's completions API.

    engine = OpenAIEngine("pushkin-mini", ["http://10.0.0.1:8000/v1", "http://10.0.0.2:8000/v1"])
    await engine.start()

It needs neither torch nor a tokenizer. How many characters a token is worth, the server tells when
the engine starts; a text that proves too long all the same is sent again, shorter. What runs on
the other machines is described in deploy/vllm.md.
"""

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ml.card import SAMPLE, limits
from ml.completions import CompletionError, Completions, RefusedError, ServerError, TooLongError
from ml.decoding import Sampling
from ml.engine import (
    EngineError,
    GenerationError,
    ModelCard,
    PromptTooLongError,
    Request,
    Stream,
)
from ml.servers import Pauses, Server, Servers

CONTEXT = 2048  # tokens, for a server that does not say: as many as ruGPT-3 holds
TRIES = 10  # of one answer; with ``Pauses`` a lone server may be away for two minutes
SILENCE = 120.0  # seconds in which a server must say something: a full one lets requests wait
# A text may take so many times the tokens that its length suggests; each is tried after the other.
MARGINS = (1.25, 1.75, 2.5)
WORTH = 2.0  # characters of Russian prose in a token, for a server that does not count: few

log = logging.getLogger("worker")


class OpenAIEngine:
    """Spreads the answers over servers of one model; each answer is one stream of HTTP."""

    def __init__(
        self,
        model: str,
        urls: Sequence[str],
        *,
        key: str = "",
        context: int = 0,  # tokens; 0: as the server says
        pauses: Pauses | None = None,
        tries: int = TRIES,
        silence: float = SILENCE,
    ) -> None:
        if not urls:
            raise EngineError("ENGINE is openai, but ENGINE_URLS names no server")
        servers = [Server(url, Completions(url, model, key=key, silence=silence)) for url in urls]
        self._servers = Servers(servers, pauses or Pauses())
        self._model, self._context, self._tries = model, context, tries
        self._card: ModelCard | None = None
        self._worth = WORTH
        self._streams: dict[asyncio.Task[None], Stream] = {}
        self._closed = False

    @property
    def card(self) -> ModelCard:
        assert self._card is not None, "the engine has not been started"
        return self._card

    async def start(self) -> None:
        """Let every server write a token. Raises EngineError if none of them can."""
        servers = self._servers.all
        refusals = await asyncio.gather(*(self._greet(server) for server in servers))
        told = [f"{s.url}: {why}" for s, why in zip(servers, refusals, strict=True) if why]
        if all(refusals):
            await self.close()
            raise EngineError(f"no server writes with {self._model!r}: {'; '.join(told)}")
        for line in told:
            log.warning("a server does not write: %s", line)

    async def _greet(self, server: Server[Completions]) -> str:
        """Ask a server for one token; return why it does not come, or nothing."""
        trial = Stream(on_cancel=lambda: None)
        try:
            await self._meet(server)
            one = Sampling(max_tokens=1)
            if tokens := await server.client.write(trial, SAMPLE, one, seed=0):
                self._worth = len(SAMPLE) / tokens
                self._card = self._describe(self.card.version, self.card.meta)
        except CompletionError as error:
            self._servers.rest(server)
            return str(error)
        return ""

    async def _meet(self, server: Server[Completions]) -> None:
        """Learn what a server holds. Raises ServerError if it is not what the others hold."""
        if server.known:
            return
        held = await server.client.held()
        if self._card is None:
            self._context = self._context or held.context or CONTEXT
            self._card = self._describe(held.version, {"root": held.root})
        elif held.version != self._card.version:
            raise ServerError(f"it holds version {held.version}, not {self._card.version}")
        server.known = True

    def _describe(self, version: str, meta: Mapping[str, Any]) -> ModelCard:
        tokens, characters = limits(self._context, self._worth)
        return ModelCard(self._model, version, tokens, characters, meta)

    async def submit(self, request: Request) -> Stream:
        if self._closed:
            raise EngineError("the engine has been closed")
        if self._tokens(request.prompt) > self.card.prompt_tokens:
            raise self._too_long(request.prompt)
        task: asyncio.Task[None]
        stream = Stream(on_cancel=lambda: task.cancel())
        task = asyncio.create_task(self._write(stream, request))
        self._streams[task] = stream
        task.add_done_callback(self._ended)
        return stream

    def _ended(self, task: asyncio.Task[None]) -> None:
        stream = self._streams.pop(task)
        if not task.cancelled() and (error := task.exception()):  # a mistake of ours
            log.error("an answer broke off", exc_info=error)
            stream.end("error", GenerationError(repr(error)))

    async def _write(self, stream: Stream, request: Request) -> None:
        """Write an answer; begin it again, elsewhere, as long as nothing of it has come."""
        margins, tried = list(MARGINS), 0
        while stream.finish_reason is None:
            async with self._servers.take() as server:
                tried += 1
                try:
                    await self._meet(server)
                    text, sampling = self._fit(request, margins[0])
                    await server.client.write(stream, text, sampling, request.seed)
                    self._servers.praise(server)
                except TooLongError:
                    if not margins[1:]:
                        stream.end("error", self._too_long(request.prompt))
                    del margins[0]
                except RefusedError as error:
                    stream.end("error", GenerationError(f"{server.url}: {error}"))
                except ServerError as error:
                    self._servers.rest(server, error.asked)
                    why = f"{server.url}: {error}"
                    if stream.tokens or tried >= self._tries:
                        stream.end("error", GenerationError(why))
                    else:
                        log.warning("an answer is asked for again: %s", why)

    def _fit(self, request: Request, margin: float) -> tuple[str, Sampling]:
        """Return the end of story and opening that fits, and the limit of what may follow."""
        room = int(self.card.prompt_tokens * self._worth / margin)  # characters
        text = " ".join(filter(None, (request.context, request.prompt)))
        text = text[-max(room, len(request.prompt)) :] or "\n"  # no server takes an empty text
        left = self._context - math.ceil(self._tokens(text) * margin)
        tokens = max(1, min(request.sampling.max_tokens, left))
        return text, replace(request.sampling, max_tokens=tokens)

    def _tokens(self, text: str) -> int:
        """Return about how many tokens a text takes."""
        return math.ceil(len(text) / self._worth)

    def _too_long(self, prompt: str) -> PromptTooLongError:
        limit = self.card.prompt_tokens
        return PromptTooLongError(max(self._tokens(prompt), limit + 1), limit)

    async def close(self) -> None:
        self._closed = True
        for stream in list(self._streams.values()):
            stream.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)
        for server in self._servers.all:
            await server.client.close()
