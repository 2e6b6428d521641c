"""The OpenVINO engine: OpenVINO GenAI's continuous batching on the CPU, weights in int8 or int4.

The event loop itself steps the whole batch; a new request joins at the next step, a finished or
cancelled one leaves. The library draws each request's tokens from a generator of its own, so a
seed gives the same text alone and in any crowd; another kind of processor may round differently.
A model that is not converted yet is converted first (``ml.conversion``).

A step stops the loop, and would stop every thread, for the library holds Python's lock meanwhile:
the worker runs the engine in a process that has nothing else to do (``ml.apart``).
"""

import asyncio
import json
from pathlib import Path

from tokenizers import Tokenizer

from ml import card, conversion, registry
from ml.detokenizer import Detokenizer
from ml.engine import EngineError, GenerationError, ModelCard, Request, Stream
from ml.openvino_batch import Batch, News, Writing, settings

_DEAD = "the engine has ended"
_TURNS = 4  # of the loop between steps: from a line on the socket to the batch, and back


class OpenVINOEngine:
    """A causal language model from a folder; see ``ml.conversion`` for which."""

    def __init__(self, model: str, *, slots: int = 8) -> None:
        self._source, self._slots = model, slots
        self._card: ModelCard | None = None
        self._tokenizer: Tokenizer
        self._batch: Batch
        self._context = self._end = 0
        self._streams: dict[Writing, tuple[Stream, Detokenizer]] = {}
        self._changed = asyncio.Event()
        self._stepping: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def card(self) -> ModelCard:
        assert self._card is not None, "the engine has not been started"
        return self._card

    async def start(self) -> None:
        await asyncio.to_thread(self._load)
        self._stepping = asyncio.create_task(self._step())

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
            version = converted.meta["weights_sha256"][: registry.DIGITS]
            self._card = card.describe(
                self._source, version, context=self._context, encode=self._encode
            )
            self._batch = Batch(converted, self._slots)
            self._batch.warm(self._encode(card.SAMPLE))
        # tokenizers raises Exception itself for a file it cannot read.
        except Exception as error:
            raise EngineError(f"cannot load the model {self._source!r}: {_line(error)}") from error

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    async def submit(self, request: Request) -> Stream:
        if self._closing or self._stepping is None:
            raise EngineError(_DEAD)
        ids = card.prompt_ids(request, self.card, self._encode, self._end)
        room = self._context - len(ids)
        writing = Writing(
            ids, settings(request.sampling, seed=request.seed, room=room, end=self._end)
        )
        stream = Stream(on_cancel=lambda: self._drop(writing))
        self._streams[writing] = stream, Detokenizer(self._tokenizer)
        self._batch.add(writing)
        self._changed.set()
        return stream

    def _drop(self, writing: Writing) -> None:
        """Have a cancelled writing leave the batch before the next step."""
        writing.cancelled = True
        self._streams.pop(writing, None)

    async def close(self) -> None:
        self._closing = True
        for stream, _ in list(self._streams.values()):
            stream.cancel()
        self._changed.set()
        if self._stepping:
            await self._stepping

    async def _step(self) -> None:
        """Step while there is anything to write, else wait."""
        try:
            while not self._closing:
                if not self._batch.busy:
                    self._changed.clear()
                    await self._changed.wait()
                    continue
                self._deliver(self._batch.step())
                for _ in range(_TURNS):
                    await asyncio.sleep(0)
            self._batch.close()
        # Whatever the library raises, it cannot go on: the streams end, ``submit`` says so.
        except Exception as error:
            self._closing = True
            self._die(_line(error))

    def _deliver(self, news: list[News]) -> None:
        """Turn a step's tokens into pieces of text."""
        for one in news:
            if one.writing.cancelled:
                continue
            stream, detokenizer = self._streams[one.writing]
            for token in one.tokens:
                stream.tokens += 1
                if piece := detokenizer.step(token):
                    stream.push(piece)
            if one.reason:
                stream.end(one.reason, GenerationError(one.error) if one.error else None)
                del self._streams[one.writing]

    def _die(self, error: str) -> None:
        for stream, _ in self._streams.values():
            stream.end("error", GenerationError(f"{_DEAD}: {error}"))
        self._streams.clear()


def _end_of_text(folder: Path, tokenizer: Tokenizer) -> int:
    """Return the token that transformers takes for a text's end. Raises ValueError without one."""
    word = json.loads((folder / "tokenizer_config.json").read_text("utf-8")).get("eos_token")
    token = tokenizer.token_to_id(word["content"] if isinstance(word, dict) else word or "")
    if token is None or not tokenizer.encode(card.SAMPLE).ids:
        raise ValueError("its tokenizer knows no words or no end of a text")
    return token


def _line(error: Exception) -> str:
    """Return an error's words on one line: the library's take many."""
    return " ".join(str(error).split())[:300]
