"""An engine in a process of its own answers as it would in this one, and dies alone."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import psutil
import pytest

from ml import apart
from ml.apart import Apart
from ml.decoding import Sampling
from ml.engine import (
    EchoEngine,
    Engine,
    EngineError,
    GenerationError,
    PromptTooLongError,
    Request,
    Stream,
)

MINI = str(Path(__file__).parents[1] / "ml/pretrained/pushkin-mini")
ECHO = "ml.engine:EchoEngine"
HERE = "tests.test_ml_apart"


class Unwilling(EchoEngine):
    async def start(self) -> None:
        raise EngineError("нет чернил")


class Fragile(EchoEngine):
    """Fails one request in the middle; is dead when asked to be."""

    async def submit(self, request: Request) -> Stream:
        if request.prompt == "смерть":
            raise EngineError("dead")
        stream = Stream(on_cancel=lambda: None)
        stream.push(" начало")
        stream.end("error", GenerationError("чернила высохли"))
        return stream


class Hanging(EchoEngine):
    """Accepts a request and then stops for ever."""

    async def submit(self, request: Request) -> Stream:  # noqa: ARG002 (whatever it is)
        asyncio.get_running_loop().call_later(0.2, time.sleep, 1000)
        return Stream(on_cancel=lambda: None)


class Puzzled(EchoEngine):
    """Its library does not understand a seed below zero."""

    async def submit(self, request: Request) -> Stream:
        if request.seed < 0:
            raise TypeError("seed")
        return await super().submit(request)


async def text(stream: Stream) -> str:
    return "".join([piece async for piece in stream])


@pytest.fixture
async def echo() -> AsyncIterator[Apart]:
    """An endless echo, if it is not told otherwise."""
    engine = Apart(ECHO, delay=0.001, words=1_000_000)
    await engine.start()
    yield engine
    await engine.close()


async def test_it_writes_what_the_engine_would_write_here() -> None:
    here, apart = EchoEngine(words=5), Apart(ECHO, words=5)
    await apart.start()
    found = []
    for engine in (here, apart):
        stream = await engine.submit(Request("Мороз и «солнце»\n🪶", "Прежде"))
        found.append((await text(stream), stream.tokens, stream.finish_reason))
    assert found[0] == found[1]
    assert apart.card == here.card
    await apart.close()


async def test_first_words_do_not_wait_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "_GATHER", 3600.0)
    sent: asyncio.Queue[list[dict[str, Any]]] = asyncio.Queue()
    writer = Mock(is_closing=lambda: False, write=lambda line: sent.put_nowait(json.loads(line)))
    desk = apart._Desk(EchoEngine(delay=0.01, words=5), writer)
    desk.take({"id": 0, **asdict(Request("слово"))})
    news = [(await sent.get())[0]["piece"] for _ in range(3)]
    assert news == ["", " слово", " слово" * 4 + "."]  # accepted, begun, ended
    assert sent.empty()


async def test_streams_at_once_keep_to_themselves(echo: Apart) -> None:
    settings = Sampling(max_tokens=50)
    streams = [await echo.submit(Request(f"слово{n}", sampling=settings)) for n in range(8)]
    for number, written in enumerate(await asyncio.gather(*map(text, streams))):
        assert written.rstrip(".").split() == [f"слово{number}"] * 50
    assert [stream.finish_reason for stream in streams] == ["length"] * 8


async def test_cancelled_stream_ends_at_once_and_the_others_go_on(echo: Apart) -> None:
    gone, stays = [await echo.submit(Request(prompt)) for prompt in ("один", "два")]
    await anext(aiter(gone))
    gone.cancel()
    await text(gone)  # what had come, and the end
    assert gone.finish_reason == "cancelled"
    written = ""
    async for piece in stays:
        written += piece
        if len(written) > 1000:
            break
    assert set(written.split()) == {"два"}


async def test_long_opening_is_refused_and_the_engine_goes_on(echo: Apart) -> None:
    with pytest.raises(PromptTooLongError, match=r"^prompt_too_long 301 300$"):
        await echo.submit(Request("слово " * 301))
    stream = await echo.submit(Request("слово", sampling=Sampling(max_tokens=1)))
    assert await text(stream) == " слово."


async def test_engine_that_does_not_start_says_why() -> None:
    engine = Apart(f"{HERE}:Unwilling")
    with pytest.raises(EngineError, match=r"^нет чернил$"):
        await engine.start()


async def test_request_that_fails_fails_here() -> None:
    engine = Apart(f"{HERE}:Fragile")
    await engine.start()
    with pytest.raises(GenerationError, match="чернила высохли"):
        await text(await engine.submit(Request("Кот")))
    with pytest.raises(EngineError):
        await engine.submit(Request("смерть"))
    with pytest.raises(EngineError):  # from now on
        await engine.submit(Request("Кот"))
    await engine.close()


async def test_killed_engine_ends_its_streams_and_takes_no_more(echo: Apart) -> None:
    stream = await echo.submit(Request("Кот"))
    await anext(aiter(stream))
    assert echo._process is not None
    echo._process.kill()
    with pytest.raises(GenerationError, match="process has died"):
        await text(stream)
    with pytest.raises(EngineError, match="process has died"):
        await echo.submit(Request("Кот"))


async def test_engine_ends_with_the_worker_and_not_by_signals_to_all(echo: Apart) -> None:
    assert echo._process is not None
    for one in (signal.SIGINT, signal.SIGTERM):
        os.kill(echo._process.pid, one)
    stream = await echo.submit(Request("Кот", sampling=Sampling(max_tokens=3)))
    assert await text(stream) == " Кот Кот Кот."
    process = psutil.Process(echo._process.pid)
    echo._writer.transport.abort()  # as if the worker had been killed
    await asyncio.to_thread(process.wait, 60)


async def test_process_asks_for_large_pages_unless_its_operator_knows_better(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    for chosen, expected in ((None, "glibc.malloc.hugetlb=1"), ("", "")):
        if chosen is not None:
            monkeypatch.setenv("GLIBC_TUNABLES", chosen)
        engine = Apart(ECHO)
        await engine.start()
        (process,) = (
            child for child in psutil.Process().children() if "ml.apart" in child.cmdline()
        )
        assert process.environ()["GLIBC_TUNABLES"] == expected
        await engine.close()


async def test_closing_twice_or_before_the_start_does_nothing(echo: Apart) -> None:
    await Apart(ECHO).close()
    stream = await echo.submit(Request("Кот"))
    await echo.close()
    await echo.close()
    assert stream.finish_reason == "cancelled"


async def test_openvino_writes_the_same_apart_and_in_this_process() -> None:
    pytest.importorskip("openvino_genai")
    from ml.engine_openvino import OpenVINOEngine

    apart = Apart("ml.engine_openvino:OpenVINOEngine", MINI, slots=3)
    engines: list[Engine] = [OpenVINOEngine(MINI, slots=3), apart]
    found = []
    for engine in engines:
        await engine.start()
        asked = [
            Request(prompt, sampling=Sampling(max_tokens=12 + seed), seed=seed)
            for seed, prompt in enumerate(
                ["Мороз и солнце", "Старый граф", "Дождь", "Он вышел", "И"]
            )
        ]
        streams = [await engine.submit(request) for request in asked]  # more than slots
        texts = await asyncio.gather(*map(text, streams))
        found.append([(t, s.tokens, s.finish_reason) for t, s in zip(texts, streams, strict=True)])
        with pytest.raises(PromptTooLongError):
            await engine.submit(Request("слово " * 3000))
        cancelled = await engine.submit(Request("Конец"))
        cancelled.cancel()
        await text(cancelled)
        await engine.close()
    assert found[0] == found[1]
    assert engines[0].card == engines[1].card


async def test_openvino_apart_names_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    pytest.importorskip("openvino_genai")
    engine = Apart("ml.engine_openvino:OpenVINOEngine", str(tmp_path / "none"), slots=1)
    with pytest.raises(EngineError, match="cannot load the model"):
        await engine.start()


async def test_process_that_hangs_is_killed_and_whoever_waits_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(apart, "_SILENCE", 1.0)
    engine = Apart(f"{HERE}:Hanging")
    await engine.start()
    stream = await engine.submit(Request("Кот"))
    with pytest.raises(GenerationError, match="died"):
        await text(stream)
    with pytest.raises(EngineError):
        await engine.submit(Request("Кот"))
    await engine.close()


async def test_process_that_has_nothing_to_write_may_be_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(apart, "_SILENCE", 0.2)
    engine = Apart(ECHO, words=3)
    await engine.start()
    await asyncio.sleep(1.0)
    assert await text(await engine.submit(Request("Кот"))) == " Кот Кот Кот."
    await engine.close()


async def test_process_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "_CLOSING", 0.5)
    engine = Apart(f"{HERE}:Hanging")
    await engine.start()
    await engine.submit(Request("Кот"))
    await asyncio.sleep(0.5)  # by now it hangs
    await asyncio.wait_for(engine.close(), 30)


async def test_request_that_the_library_does_not_understand_fails_alone() -> None:
    engine = Apart(f"{HERE}:Puzzled", words=2)
    await engine.start()
    with pytest.raises(GenerationError, match="seed"):
        await engine.submit(Request("Кот", seed=-1))
    assert await text(await engine.submit(Request("Кот", seed=1))) == " Кот Кот."
    await engine.close()


async def test_process_that_cannot_be_started_is_an_engine_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    with pytest.raises(EngineError, match="Cannot allocate memory"):
        await Apart(ECHO).start()


async def test_request_whose_caller_is_gone_disturbs_nobody(echo: Apart) -> None:
    asking = asyncio.create_task(echo.submit(Request("один")))
    await asyncio.sleep(0)
    asking.cancel()
    stream = await echo.submit(Request("два", sampling=Sampling(max_tokens=2)))
    assert await text(stream) == " два два."
    assert echo._streams == {}
