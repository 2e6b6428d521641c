"""The seam between the worker and whatever writes the text: requests in, pieces of text out.

    stream = await engine.submit(Request(prompt="Мороз и солнце"))
    async for piece in stream: ...
    stream.finish_reason, stream.tokens  # known when the iteration has ended
    stream.cancel()                      # any time: the iteration ends

``EchoEngine`` writes without a model; the engine of the tests.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ml.decoding import Sampling


class EngineError(Exception):
    """The engine cannot go on: the worker ends and its jobs are rescued."""


class GenerationError(Exception):
    """One request failed; the engine goes on with the others."""


class PromptTooLongError(GenerationError):
    """The opening takes more tokens than the model leaves room for."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(f"prompt_too_long {tokens} {limit}")


@dataclass(frozen=True)
class ModelCard:
    """What serves: ``version`` names the weights, the limits hold for an opening."""

    name: str
    version: str
    prompt_tokens: int
    prompt_characters: int  # about so much Russian prose fits ``prompt_tokens``
    meta: Mapping[str, Any]


@dataclass(frozen=True)
class Request:
    """Continue ``prompt``; ``context`` is a story it continues, whose beginning may be cut off."""

    prompt: str
    context: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0


class Stream:
    """The pieces of one answer, in order, while they are written."""

    def __init__(self, on_cancel: Callable[[], object]) -> None:
        self.tokens = 0
        self.finish_reason: str | None = None  # "stop", "length", "cancelled", "error"
        self._pieces: asyncio.Queue[str | GenerationError | None] = asyncio.Queue()
        self._on_cancel = on_cancel

    def push(self, piece: str) -> None:
        """Add a piece (engine's side)."""
        self._pieces.put_nowait(piece)

    def end(self, reason: str, error: GenerationError | None = None) -> None:
        """End the iteration, with an error if there was one (engine's side); once."""
        if self.finish_reason is None:
            self.finish_reason = reason
            self._pieces.put_nowait(error)

    def cancel(self) -> None:
        """Stop the writing; no piece comes any more."""
        if self.finish_reason is None:
            self._on_cancel()
            self.end("cancelled")

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yield the pieces; raise GenerationError if the request failed."""
        while True:
            piece = await self._pieces.get()
            if isinstance(piece, GenerationError):
                raise piece
            if piece is None:
                return
            yield piece


class Engine(Protocol):
    """Writes several answers at once; a new one joins while others are under way."""

    @property
    def card(self) -> ModelCard:
        """What serves; known after ``start``."""
        ...

    async def start(self) -> None:
        """Load the model. Raises EngineError, the message for the operator."""
        ...

    async def submit(self, request: Request) -> Stream:
        """Begin an answer. Raises PromptTooLongError, and EngineError if the engine is dead."""
        ...

    async def close(self) -> None:
        """Stop at once; open streams end. A second time does nothing."""
        ...


class EchoEngine:
    """Repeats the prompt's words, one every ``delay`` seconds, without any model."""

    def __init__(self, delay: float = 0.0, words: int = 40) -> None:
        self._delay, self._words = delay, words
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def card(self) -> ModelCard:
        return ModelCard("echo", "1", prompt_tokens=300, prompt_characters=1000, meta={})

    async def start(self) -> None:
        """Nothing to load."""

    async def submit(self, request: Request) -> Stream:
        words = f"{request.context} {request.prompt}".split()
        if len(request.prompt.split()) > self.card.prompt_tokens:
            raise PromptTooLongError(len(request.prompt.split()), self.card.prompt_tokens)
        task: asyncio.Task[None]
        stream = Stream(on_cancel=lambda: task.cancel())
        task = asyncio.create_task(self._write(stream, words, request.sampling.max_tokens))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return stream

    async def _write(self, stream: Stream, words: list[str], limit: int) -> None:
        for i in range(min(self._words, limit)):
            await asyncio.sleep(self._delay)
            stream.tokens += 1
            stream.push(f" {words[i % len(words)]}")
        stream.push(".")
        stream.end("length" if limit < self._words else "stop")

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
