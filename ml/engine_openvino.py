"""The OpenVINO engine: OpenVINO GenAI's continuous batching on the CPU, weights in int8.

One thread of ours steps the whole batch; a new request joins at the next step, a finished or
cancelled one leaves. The library draws each request's tokens from a generator of its own, so a
seed gives the same text alone and in any crowd; another processor, or other threads of one, may
round differently. A model that is not converted yet is converted first (``ml.conversion``).

The library holds Python's lock during a step: the event loop gets its turn between two steps.
"""

import asyncio
import itertools
import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from ml import card, conversion
from ml.decoding import Sampling
from ml.engine import EngineError, GenerationError, ModelCard, Request, Stream
from ml.openvino_quiet import openvino, openvino_genai

MODEL = "openvino_model.xml"  # the name the library looks for
# In fp32 between the int8 matrices: as fast as bf16 where the processor has no matrix unit, and
# the same tokens on every machine. A thread that may not move waits for whoever has its core.
PROPERTIES = {"INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}
_PAGE = 32  # tokens in a page of the library's key-value cache on the CPU
_STEP = 512  # tokens in a step, so that a long opening does not hold up the others for long
_ALMOST_ALL = 0.999999  # the library's largest min_p; 1 would be every token but the likeliest
_DEAD = "the generation thread has died"


@dataclass(eq=False)
class _Writing:
    """A request under way; ``cancelled`` is set by the event loop, read by the thread."""

    ids: list[int]
    config: openvino_genai.GenerationConfig
    stream: Stream
    decoder: DecodeStream = field(default_factory=lambda: DecodeStream(skip_special_tokens=True))
    cancelled: bool = False
    handle: Any = None


@dataclass(frozen=True)
class _News:
    """What a step brought for one request."""

    writing: _Writing
    tokens: list[int]
    reason: str | None = None
    error: str = ""


class OpenVINOEngine:
    """A causal language model from a folder; see ``ml.conversion`` for which."""

    def __init__(self, model: str, *, slots: int = 8) -> None:
        self._source, self._slots = model, slots
        self._card: ModelCard | None = None
        self._tokenizer: Tokenizer
        self._pipeline: openvino_genai.ContinuousBatchingPipeline
        self._context = self._end = 0
        self._inbox: SimpleQueue[_Writing | None] = SimpleQueue()  # None: look who was cancelled
        self._waiting: deque[_Writing] = deque()  # these two are the thread's
        self._running: list[_Writing] = []
        self._streams: set[Stream] = set()
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread | None = None
        self._names = itertools.count()
        self._closing = False
        self.steps = 0  # taken so far

    @property
    def card(self) -> ModelCard:
        assert self._card is not None, "the engine has not been started"
        return self._card

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._load)
        self._thread = threading.Thread(target=self._work, name="openvino", daemon=True)
        self._thread.start()

    def _load(self) -> None:
        folder = Path(self._source)
        if not folder.is_dir():
            raise EngineError(
                f"cannot load the model {self._source!r}: no such folder (the OpenVINO engine "
                "takes no hub id)"
            )
        try:
            converted = conversion.open_conversion(folder)
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self._end = _end_of_text(folder, self._tokenizer)
            self._context = converted.context
            self._card = card.describe(self._source, context=self._context, encode=self._encode)
            self._pipeline = self._open(converted)
        # The two libraries in C++ and Rust raise Exception itself for a file they cannot read.
        except Exception as error:
            line = " ".join(str(error).split())[:300]
            raise EngineError(f"cannot load the model {self._source!r}: {line}") from error

    def _open(self, converted: conversion.Conversion) -> openvino_genai.ContinuousBatchingPipeline:
        config = openvino_genai.SchedulerConfig()
        # Memory is bounded by the slots; one more, for what was cancelled and leaves with the step.
        config.num_kv_blocks = (self._slots + 1) * (-(-self._context // _PAGE) + 1)
        config.max_num_batched_tokens = _STEP
        config.dynamic_split_fuse = True  # openings join the steps in which the others go on
        config.enable_prefix_caching = True  # a continued story's beginning may still be there
        properties: dict[str, Any] = dict(PROPERTIES)
        if converted.parameters < card.SMALL:
            properties |= {"INFERENCE_NUM_THREADS": 1, "sampler_num_threads": 1}
        return openvino_genai.ContinuousBatchingPipeline(
            converted.folder, config, "CPU", properties
        )

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    async def submit(self, request: Request) -> Stream:
        if self._closing or self._thread is None or not self._thread.is_alive():
            raise EngineError(_DEAD)
        ids = card.prompt_ids(request, self.card, self._encode, self._end)
        writing: _Writing

        def cancel() -> None:
            writing.cancelled = True
            self._inbox.put(None)
            self._streams.discard(stream)

        stream = Stream(on_cancel=cancel)
        room = self._context - len(ids)
        config = _generation(request.sampling, request.seed, room, self._end)
        writing = _Writing(ids, config, stream)
        self._streams.add(stream)
        self._inbox.put(writing)
        return stream

    async def close(self) -> None:
        self._closing = True
        for stream in list(self._streams):
            stream.cancel()
        if self._thread and self._thread.is_alive():
            self._inbox.put(None)
            await asyncio.to_thread(self._thread.join)

    # The thread's side.

    def _work(self) -> None:
        try:
            while not self._closing:
                self._take()
                self._pipeline.step()
                self.steps += 1
                self._tell(list(self._news()))
        # Whatever the library raises, it cannot go on: the streams end, ``submit`` says so.
        except Exception as error:
            line = " ".join(str(error).split())[:300]
            held = [*self._running, *self._waiting]
            self._tell([_News(writing, [], "error", f"{_DEAD}: {line}") for writing in held])
            self._closing = True
        finally:
            for writing in self._running:
                writing.handle.cancel()
            if self._pipeline.has_non_finished_requests():
                self._pipeline.step()  # computes nothing; the library frees their memory so
            del self._pipeline

    def _take(self) -> None:
        """Let who was cancelled go and the next ones in; wait while there is nothing to write."""
        idle = not (self._running or self._waiting)
        with suppress(Empty):
            while True:
                message = self._inbox.get(block=idle)
                idle = False
                if message is not None:
                    self._waiting.append(message)
        for writing in self._running:
            if writing.cancelled:
                writing.handle.cancel()
        self._running = [writing for writing in self._running if not writing.cancelled]
        while self._waiting and len(self._running) < self._slots:
            writing = self._waiting.popleft()
            if not writing.cancelled:
                ids = openvino.Tensor(np.array([writing.ids], dtype=np.int64))
                writing.handle = self._pipeline.add_request(next(self._names), ids, writing.config)
                self._running.append(writing)

    def _news(self) -> Iterator[_News]:
        """Yield what the step has written; who is finished no longer runs."""
        for writing in list(self._running):
            tokens: list[int] = []
            ended = openvino_genai.GenerationFinishReason.NONE
            while writing.handle.can_read():
                for output in writing.handle.read().values():
                    tokens += output.generated_ids
                    ended = output.finish_reason
            reason, error = None, ""
            if ended == openvino_genai.GenerationFinishReason.STOP:
                reason = "stop"
            elif ended == openvino_genai.GenerationFinishReason.LENGTH:
                reason = "length"
            elif writing.handle.get_status() != openvino_genai.GenerationStatus.RUNNING:
                reason, error = "error", "the key-value cache is full"
            if reason:
                self._running.remove(writing)
            if tokens or reason:
                yield _News(writing, tokens, reason, error)

    def _tell(self, news: list[_News]) -> None:
        if news:
            with suppress(RuntimeError):  # the loop was closed, and nobody listens
                self._loop.call_soon_threadsafe(self._deliver, news)

    # The event loop's side.

    def _deliver(self, news: list[_News]) -> None:
        for one in news:
            stream = one.writing.stream
            if one.writing.cancelled:
                continue
            for token in one.tokens:
                stream.tokens += 1
                piece = one.writing.decoder.step(self._tokenizer, token) or ""
                if piece := piece.replace(
                    "\ufffd", ""
                ):  # which stands for bytes that are no letter
                    stream.push(piece)
            if one.reason:
                stream.end(one.reason, GenerationError(one.error) if one.error else None)
                self._streams.discard(stream)


def _generation(
    sampling: Sampling, seed: int, room: int, end: int
) -> openvino_genai.GenerationConfig:
    """Return a request's settings as the library takes them; its filters are transformers'."""
    return openvino_genai.GenerationConfig(
        do_sample=True,
        temperature=float(sampling.temperature),
        top_p=float(sampling.top_p),
        top_k=int(sampling.top_k),
        min_p=min(float(sampling.min_p), _ALMOST_ALL),
        repetition_penalty=float(sampling.repetition_penalty),
        max_new_tokens=min(sampling.max_tokens, room),
        rng_seed=seed,
        eos_token_id=end,
    )


def _end_of_text(folder: Path, tokenizer: Tokenizer) -> int:
    """Return the token that transformers takes for a text's end. Raises ValueError without one."""
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    word = settings.get("eos_token")
    token = tokenizer.token_to_id(word["content"] if isinstance(word, dict) else word or "")
    if token is None or not tokenizer.encode(card.SAMPLE).ids:
        raise ValueError("its tokenizer knows no words or no end of a text")
    return token
