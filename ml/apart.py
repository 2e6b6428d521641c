"""An engine in a process of its own: its steps and the worker's loop never wait for each other.

    engine = Apart("ml.engine_openvino:OpenVINOEngine", "ml/pretrained/pushkin-mini", slots=8)
    await engine.start()  # from here on as any other

A library that holds Python's lock during a step stops whatever else the process would do: each of
the dozen hand-overs between threads in a transaction costs a step, and the slot that the
transaction is to fill stays empty so long. Here the worker has a lock to itself. It also outlives
a library that crashes or hangs: the streams end, and the next ``submit`` raises EngineError.

The two talk in lines of JSON over a socket: down come requests and cancellations, up a list of the
news of many stories. The process ends with the socket, so also if the worker is killed.
"""

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from itertools import count
from typing import Any

from ml.decoding import Sampling
from ml.engine import (
    Engine,
    EngineError,
    GenerationError,
    ModelCard,
    PromptTooLongError,
    Request,
    Stream,
)

_DEAD = "the engine's process has died"
_GATHER = 0.05  # seconds for which words may wait for more; a story's beginning and end do not
_SILENCE = 120.0  # seconds without a word while stories are open: the library hangs
_CLOSING = 10.0  # seconds that a process may take to end
_LINE = 2**24  # bytes: a list of what came while the worker was busy
# Weights in large pages are read a little faster (LOG.md), where the C library can ask for such.
_LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
_LOG = "%(asctime)s %(levelname)s %(name)s: %(message)s"

log = logging.getLogger("worker")


class Apart:
    """The worker's side. ``factory`` is ``module:name``, called there with the other arguments."""

    def __init__(self, factory: str, *arguments: Any, **options: Any) -> None:
        self._made_by = {"factory": factory, "arguments": arguments, "options": options}
        self._card: ModelCard | None = None
        self._numbers = count()
        self._streams: dict[int, Stream] = {}
        self._asked: dict[int, asyncio.Future[None]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._reading: asyncio.Task[None] | None = None
        self._silent = 0  # tenths of _SILENCE since it last answered or had nothing to do

    @property
    def card(self) -> ModelCard:
        assert self._card is not None, "the engine has not been started"
        return self._card

    async def start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "ml.apart",
                    str(theirs.fileno()),
                    pass_fds=[theirs.fileno()],
                    stdin=asyncio.subprocess.DEVNULL,
                    env=_LARGE_PAGES | os.environ,
                )
            except OSError as error:  # no memory, too many processes
                ours.close()
                raise EngineError(f"cannot start the engine's process: {error}") from error
        self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=_LINE)
        self._send(self._made_by | {"log_level": logging.getLogger().getEffectiveLevel()})
        hello: dict[str, Any] = {}
        with suppress(ConnectionError):
            hello = json.loads(await self._reader.readline() or "{}")
        if "card" not in hello:
            await self.close()
            raise EngineError(hello.get("error", _DEAD))
        self._card = ModelCard(**hello["card"])
        self._reading = asyncio.create_task(self._read())

    async def submit(self, request: Request) -> Stream:
        if self._reading is None or self._reading.done():
            raise EngineError(_DEAD)
        number = next(self._numbers)
        stream = Stream(on_cancel=lambda: self._cancel(number))
        self._streams[number] = stream
        self._asked[number] = asked = asyncio.get_running_loop().create_future()
        self._send({"id": number, **asdict(request)})
        await asked
        return stream

    def _cancel(self, number: int) -> None:
        if self._streams.pop(number, None):
            self._send({"id": number, "cancel": True})

    def _send(self, message: dict[str, Any]) -> None:
        self._writer.write(_line(message))

    async def _read(self) -> None:
        """Hand out what comes; once nothing does any more, end what is open."""
        watching = asyncio.create_task(self._watch())
        try:
            async for line in self._reader:
                self._silent = 0
                for news in json.loads(line):
                    self._take(news.pop("id"), **news)
        except ConnectionError:  # killed with our words unread
            pass
        finally:
            watching.cancel()
            for stream in self._streams.values():
                stream.end("error", GenerationError(_DEAD))
            self._streams.clear()
            for asked in self._asked.values():
                if not asked.done():
                    asked.set_exception(EngineError(_DEAD))
            self._asked.clear()

    async def _watch(self) -> None:
        """Kill a process that has hung: what it was to write ends, and whoever waits is told.

        Ticks are counted, not time: a worker that is stopped and goes on has lost nothing.
        """
        while self._silent < 10:
            await asyncio.sleep(_SILENCE / 10)
            self._silent = self._silent + 1 if self._streams else 0
        log.error("the engine's process has been silent for %.0f s and is killed", _SILENCE)
        if self._process:
            self._process.kill()

    def _take(
        self,
        number: int,
        tokens: int = 0,
        piece: str = "",
        end: str = "",
        error: str | None = None,
    ) -> None:
        failure = None if error is None else _error(error)
        if asked := self._asked.pop(number, None):  # the first news: accepted or refused
            if asked.done():  # whoever asked has been cancelled
                self._cancel(number)
            elif failure and not end:
                self._streams.pop(number, None)
                asked.set_exception(failure)
            else:
                asked.set_result(None)
        if stream := self._streams.get(number):  # else it was cancelled
            stream.tokens = tokens
            if piece:
                stream.push(piece)
            if end:
                del self._streams[number]
                stream.end(end, failure)

    async def close(self) -> None:
        if self._process is None:
            return
        for stream in list(self._streams.values()):
            stream.cancel()
        self._writer.close()
        try:
            await asyncio.wait_for(self._process.wait(), _CLOSING)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        if self._reading:
            await self._reading


def _error(words: str) -> GenerationError:
    match words.split():
        case ["prompt_too_long", tokens, limit]:
            return PromptTooLongError(int(tokens), int(limit))
    return GenerationError(words)


def _line(message: object) -> bytes:
    return json.dumps(message).encode() + b"\n"


class _Desk:
    """The other side: an engine's answers, gathered."""

    def __init__(self, engine: Engine, writer: asyncio.StreamWriter) -> None:
        self._engine, self._writer = engine, writer
        self._news: dict[int, dict[str, Any]] = {}
        self._sending: asyncio.TimerHandle | None = None
        self._streams: dict[int, Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, message: dict[str, Any]) -> None:
        if message.get("cancel"):
            if stream := self._streams.get(message["id"]):
                stream.cancel()
            return
        number = message.pop("id")
        task = asyncio.create_task(self._write(number, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self, number: int, message: dict[str, Any]) -> None:
        sampling = Sampling(**message.pop("sampling"))
        try:
            stream = await self._engine.submit(Request(sampling=sampling, **message))
        except GenerationError as error:
            self._note(number, error=str(error))
            return
        except EngineError:  # dead: so is this process
            self._writer.close()
            return
        except Exception as error:  # a request that the library does not understand
            self._note(number, error=f"{type(error).__name__}: {error}")
            return
        self._streams[number] = stream
        self._note(number)
        try:
            delay = 0.0
            async for piece in stream:
                self._note(number, piece, delay=delay, tokens=stream.tokens)
                delay = _GATHER
            self._note(number, tokens=stream.tokens, end=stream.finish_reason)
        except GenerationError as error:
            self._note(number, tokens=stream.tokens, end="error", error=str(error))
        finally:
            del self._streams[number]

    def _note(self, number: int, piece: str = "", *, delay: float = 0.0, **news: Any) -> None:
        noted = self._news.setdefault(number, {"id": number, "piece": ""})
        noted.update(news, piece=noted["piece"] + piece)
        loop = asyncio.get_running_loop()
        if self._sending and self._sending.when() > loop.time() + delay:
            self._sending.cancel()
            self._sending = None
        self._sending = self._sending or loop.call_later(delay, self._send)

    def _send(self) -> None:
        self._sending = None
        if not self._writer.is_closing():
            self._writer.write(_line(list(self._news.values())))
        self._news = {}


async def serve(connection: socket.socket) -> None:
    """Make the engine that the first line names and serve it until the other side closes."""
    reader, writer = await asyncio.open_connection(sock=connection, limit=_LINE)
    hello = json.loads(await reader.readline())
    logging.basicConfig(level=logging.WARNING, format=_LOG)
    logging.getLogger("openvino").setLevel(hello["log_level"])
    module, _, name = hello["factory"].partition(":")
    engine: Engine = getattr(import_module(module), name)(*hello["arguments"], **hello["options"])
    try:
        await engine.start()
    except EngineError as error:
        writer.write(_line({"error": str(error)}))
    else:
        # Some signals go to all of a service's processes, but this one ends when the worker does.
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_IGN)
        writer.write(_line({"card": asdict(engine.card)}))
        desk = _Desk(engine, writer)
        with suppress(ConnectionError):  # a worker that was killed
            async for line in reader:
                desk.take(json.loads(line))
        await engine.close()
    writer.close()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    asyncio.run(serve(socket.socket(fileno=int(sys.argv[1]))))
