"""The engine over OpenAI-compatible servers: streams, faults, several servers, limits."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from db import jobs
from db.models import Generation, ModelVersion
from db.session import Database
from ml.engine import EngineError, GenerationError, PromptTooLongError, Request, Sampling
from ml.engine_openai import OpenAIEngine
from ml.servers import Pauses, Server, Servers
from ml.serving import Served
from ml.worker import Worker, WorkerSettings, make_engine, make_load
from tests.completions_server import BROKEN, MODEL, CompletionsServer, story_of
from tests.db_helpers import add_job, read_job
from tests.openai_server import CUT, DROP, HANG, PAGE, refuse

QUICK = Pauses(first=0.01, longest=0.05, asked=0.3)
PROMPT = "Вечер был тихий"


@pytest.fixture
async def server() -> AsyncIterator[CompletionsServer]:
    async with CompletionsServer() as server:
        yield server


@pytest.fixture
async def engine(server: CompletionsServer) -> AsyncIterator[OpenAIEngine]:
    async with started(server.url) as engine:
        server.requests.clear()
        yield engine


class started:  # noqa: N801 (reads as a verb: async with started(url) as engine)
    def __init__(self, *urls: str, **settings: Any) -> None:
        self._engine = OpenAIEngine(MODEL, urls, **{"pauses": QUICK, **settings})

    async def __aenter__(self) -> OpenAIEngine:
        await self._engine.start()
        return self._engine

    async def __aexit__(self, *exception: object) -> None:
        await self._engine.close()


def asks(prompt: str = PROMPT, *, seed: int = 1, context: str = "", **sampling: Any) -> Request:
    return Request(prompt, context, Sampling(**sampling), seed)


async def write(engine: OpenAIEngine, request: Request) -> tuple[str, int, str | None]:
    stream = await engine.submit(request)
    text = "".join([piece async for piece in stream])
    return text, stream.tokens, stream.finish_reason


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def test_an_answer_comes_in_pieces_with_its_tokens_and_reason(
    engine: OpenAIEngine, server: CompletionsServer
) -> None:
    stream = await engine.submit(asks(seed=5))
    pieces = [piece async for piece in stream]
    assert len(pieces) == server.story_words
    assert "".join(pieces) == story_of(PROMPT, 5, server.story_words)
    assert (stream.finish_reason, stream.tokens) == ("stop", server.story_words + 1)
    assert await write(engine, asks(max_tokens=4)) == (story_of(PROMPT, 1, 4), 5, "length")


async def test_pieces_are_counted_where_the_server_does_not_count(
    engine: OpenAIEngine, server: CompletionsServer
) -> None:
    server.usage = False
    assert (await write(engine, asks(max_tokens=4)))[1] == 4


async def test_seed_and_settings_reach_the_server(
    engine: OpenAIEngine, server: CompletionsServer
) -> None:
    sampling = Sampling(
        temperature=0.7, top_p=0.8, top_k=9, max_tokens=5, min_p=0.1, repetition_penalty=1.2
    )
    await write(engine, Request(PROMPT, sampling=sampling, seed=77))
    await write(engine, asks(top_k=0))
    first, second = server.requests
    assert first | vars(sampling) | {"seed": 77, "model": MODEL, "prompt": PROMPT} == first
    assert second | {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0} == second


async def test_cancelling_closes_the_stream_and_the_server_stops(
    engine: OpenAIEngine, server: CompletionsServer
) -> None:
    server.pause, server.story_words = 0.01, 1000
    cancelled, other = await engine.submit(asks()), await engine.submit(asks(max_tokens=20))
    async for _ in cancelled:
        cancelled.cancel()
    assert cancelled.finish_reason == "cancelled"
    await until(lambda: server.left == 1)
    assert [piece async for piece in other]
    assert (other.finish_reason, server.left, server.busy) == ("length", 1, 0)


async def test_many_are_written_at_once(engine: OpenAIEngine, server: CompletionsServer) -> None:
    server.pause = 0.01
    written = await asyncio.gather(*(write(engine, asks(seed=n)) for n in range(40)))
    assert [text for text, _, _ in written] == [story_of(PROMPT, n, 12) for n in range(40)]
    assert server.most_busy > 20


@pytest.mark.parametrize("fault", [refuse(429), refuse(500), refuse(503), DROP, PAGE])
async def test_fault_before_the_first_piece_is_tried_again(
    engine: OpenAIEngine, server: CompletionsServer, fault: Any
) -> None:
    server.faults += [fault, fault]
    assert (await write(engine, asks()))[2] == "stop"
    assert len(server.requests) == 3


async def test_server_that_says_nothing_is_given_up(server: CompletionsServer) -> None:
    async with started(server.url, silence=0.2) as engine:
        server.faults.append(HANG)
        assert (await write(engine, asks()))[2] == "stop"


async def test_retry_after_is_waited_for(engine: OpenAIEngine, server: CompletionsServer) -> None:
    loop = asyncio.get_running_loop()
    server.faults.append(refuse(429, retry_after="0.2"))
    before = loop.time()
    await write(engine, asks())
    assert loop.time() - before >= 0.2


async def test_tries_are_bounded(server: CompletionsServer) -> None:
    async with started(server.url, tries=3) as engine:
        server.requests.clear()
        server.faults += [refuse(503, "full")] * 3
        with pytest.raises(GenerationError, match=r"127\.0\.0\.1.*503.*full"):
            await write(engine, asks())
        assert len(server.requests) == 3
        assert (await write(engine, asks()))[2] == "stop"


async def test_request_that_any_server_refuses_is_not_tried_again(
    engine: OpenAIEngine, server: CompletionsServer
) -> None:
    server.faults.append(refuse(400, "temperature must be non-negative"))
    with pytest.raises(GenerationError, match="non-negative"):
        await write(engine, asks())
    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", [BROKEN, CUT])
async def test_text_that_breaks_off_fails_and_is_not_begun_again(
    engine: OpenAIEngine, server: CompletionsServer, fault: Any
) -> None:
    server.faults.append(fault)
    stream = await engine.submit(asks())
    pieces: list[str] = []

    async def read() -> None:
        async for piece in stream:
            pieces.append(piece)  # noqa: PERF401 (some come before the error)

    with pytest.raises(GenerationError, match=r"127\.0\.0\.1"):
        await read()
    assert pieces
    assert len(server.requests) == 1


async def test_two_servers_share_the_work(server: CompletionsServer) -> None:
    async with CompletionsServer() as other, started(server.url, other.url) as engine:
        server.pause = other.pause = 0.01
        await asyncio.gather(*(write(engine, asks(seed=n)) for n in range(10)))
        assert (server.most_busy, other.most_busy) == (5, 5)


async def test_dead_server_is_rested_and_its_requests_go_to_another(
    server: CompletionsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with CompletionsServer() as other, started(other.url, server.url) as engine:
        await other.stop()
        written = await asyncio.gather(*(write(engine, asks(seed=n)) for n in range(8)))
        assert all(reason == "stop" for _, _, reason in written)
        assert "asked for again" in caplog.text


async def test_server_that_is_dead_at_the_start_joins_when_it_is_back(
    server: CompletionsServer,
) -> None:
    async with CompletionsServer() as other:
        other.faults.append(refuse(503))
        async with started(other.url, server.url) as engine:
            server.pause = other.pause = 0.01
            await asyncio.sleep(QUICK.longest)
            await asyncio.gather(*(write(engine, asks(seed=n)) for n in range(4)))
            assert (server.most_busy, other.most_busy) == (3, 1)  # a trial first
            await asyncio.gather(*(write(engine, asks(seed=n)) for n in range(4)))
            assert other.most_busy == 2


async def test_server_with_another_version_writes_nothing(server: CompletionsServer) -> None:
    async with CompletionsServer() as other, started(server.url, other.url) as engine:
        other.root = "/models/toy/ba9876543210"
        other.faults += [refuse(500)] * 3  # of all it has then: it was away to load the other one
        server.pause = 0.01
        written = await asyncio.gather(*(write(engine, asks(seed=n)) for n in range(6)))
        assert all(reason == "stop" for _, _, reason in written)
        assert other.most_busy == 1  # the trial at the start


async def test_start_without_any_server_names_them_in_one_line() -> None:
    urls = ["http://127.0.0.1:9/v1", "http://localhost:9/v1"]
    with pytest.raises(EngineError) as raised:
        await OpenAIEngine(MODEL, urls).start()
    assert all(url in str(raised.value) for url in urls)
    assert "\n" not in str(raised.value)
    with pytest.raises(EngineError, match="ENGINE_URLS"):
        OpenAIEngine(MODEL, [])


async def test_wrong_model_or_key_is_one_clear_error_at_the_start(
    server: CompletionsServer,
) -> None:
    with pytest.raises(EngineError, match="`other` does not exist"):
        await OpenAIEngine("other", [server.url]).start()
    server.key = "secret"
    with pytest.raises(EngineError, match="Unauthorized"):
        await OpenAIEngine(MODEL, [server.url], key="wrong").start()
    async with started(server.url, key="secret") as engine:
        assert (await write(engine, asks()))[2] == "stop"


async def test_card_is_what_the_server_says(engine: OpenAIEngine) -> None:
    card = engine.card
    assert (card.name, card.version) == (MODEL, "0123456789ab")
    assert card.prompt_tokens == 200 - 100
    assert 300 < card.prompt_characters < 600  # 38 words of the sample are 242 characters


async def test_server_that_says_nothing_of_its_model_has_the_settings_context() -> None:
    async with CompletionsServer(root=None, context=None) as server:
        server.usage = False
        async with started(server.url) as engine:
            assert (engine.card.version, engine.card.prompt_tokens) == ("unknown", 2048 - 160)
            assert engine.card.prompt_characters == 3000  # two to a token, less a fifth
        async with started(server.url, context=512) as engine:
            assert engine.card.prompt_tokens == 512 - 160


async def test_unknown_fields_are_left_out_and_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with CompletionsServer() as server:
        server.strict = True
        async with started(server.url) as engine:
            assert (await write(engine, asks()))[2] == "stop"
        assert len(server.requests) == 3  # one is refused
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "does not know add_special_tokens, min_p, repetition_penalty" in warnings[0]


async def test_opening_without_room_is_refused_unsent(
    engine: OpenAIEngine, server: CompletionsServer
) -> None:
    with pytest.raises(PromptTooLongError, match=r"prompt_too_long .* 100$"):
        await engine.submit(asks("Вечер был тихий " * 100))
    assert server.requests == []


async def test_opening_that_the_server_finds_too_long_is_refused(
    engine: OpenAIEngine, server: CompletionsServer
) -> None:
    # Short words: more tokens than their characters suggest.
    with pytest.raises(PromptTooLongError, match=r"prompt_too_long 10\d 100$"):
        await write(engine, asks("и " * 280))
    assert len(server.requests) == 3


async def test_long_story_is_cut_from_its_beginning_and_again_if_it_must_be(
    engine: OpenAIEngine, server: CompletionsServer
) -> None:
    story = " ".join(f"слово{n}" for n in range(500))
    assert (await write(engine, asks(context=story)))[2] == "stop"
    sent = server.requests[-1]
    assert sent["prompt"].endswith(f"слово499 {PROMPT}")
    assert 40 < len(sent["prompt"].split()) + 100 <= 200
    assert sent["max_tokens"] <= 100
    server.context = 120
    assert (await write(engine, asks(context="я и ты " * 500)))[2] == "stop"
    first, second, third = (len(body["prompt"]) for body in server.requests[-3:])
    assert first > second > third


async def test_empty_request_is_written_from_a_new_line(
    engine: OpenAIEngine, server: CompletionsServer
) -> None:
    assert (await write(engine, asks("")))[2] == "stop"
    assert server.requests[0]["prompt"] == "\n"


async def test_closing_ends_what_is_under_way(server: CompletionsServer) -> None:
    engine = OpenAIEngine(MODEL, [server.url])
    await engine.start()
    server.pause = 1.0
    stream = await engine.submit(asks())
    await until(lambda: server.busy == 1)
    await engine.close()
    await engine.close()
    assert [piece async for piece in stream] == []
    await until(lambda: server.left == 1)
    with pytest.raises(EngineError, match="closed"):
        await engine.submit(asks())


async def test_rests_double_and_failures_of_one_moment_are_one() -> None:
    now = 0.0
    servers = Servers(
        [Server("a", None), Server("b", None)], Pauses(first=1, longest=8), clock=lambda: now
    )
    bad, good = servers.all
    for most in (1, 2, 4, 8, 8):
        servers.rest(bad)
        servers.rest(bad)
        assert most / 2 <= bad.rests_until - now <= most
        async with servers.take() as taken:
            assert taken is good
        now = bad.rests_until
    servers.praise(bad)
    servers.rest(bad, asked=1000.0)
    assert bad.rests_until - now == pytest.approx(60.0)


async def test_queue_writes_again_what_broke_off(
    database: Database, server: CompletionsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "RETRY_AFTER", timedelta(0))
    engine = OpenAIEngine(MODEL, [server.url], pauses=QUICK)
    await engine.start()
    server.faults.append(BROKEN)
    job_id = await add_job(database)
    await Worker(database, engine, slots=2).run(until_empty=True)
    assert (await read_job(database, job_id)).attempts == 2
    async with database.read() as session:
        story = (await session.scalars(select(Generation))).one()
        version = await session.get_one(ModelVersion, story.model_version_id)
    sent = server.requests[-1]
    assert story.text == story_of(sent["prompt"], sent["seed"], server.story_words)
    assert (story.tokens, story.seed) == (server.story_words + 1, sent["seed"])
    assert (version.name, version.version) == (MODEL, "0123456789ab")


async def test_worker_takes_the_servers_from_its_settings(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("ENGINE=openai\nENGINE_URLS=http://a/v1, http://b/v1,\nMODEL=toy\n", "utf-8")
    settings = WorkerSettings(_env_file=file)
    assert settings.engine_urls == ["http://a/v1", "http://b/v1"]
    engine = make_engine(settings)
    assert isinstance(engine, OpenAIEngine)
    await engine.close()
    with pytest.raises(EngineError, match="only with what it was started with"):
        await make_load(settings)(Served(1, "toy", "0" * 12, "models/toy", 0.0))


def test_worker_of_a_remote_server_loads_no_model_library() -> None:
    code = (
        "import sys; from ml.worker import WorkerSettings, make_engine;"
        "make_engine(WorkerSettings(_env_file=None, engine='openai', engine_urls=['http://a/v1']));"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert "openai" in loaded
    assert set(loaded) & {"torch", "transformers", "tokenizers", "openvino", "numpy"} == set()
