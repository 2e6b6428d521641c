"""The local engines on a tiny model: the library's tokens, seeds, cancelling, limits."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ml.conversion import BUNDLED
from ml.engine import Engine, EngineError, PromptTooLongError, Request, Sampling
from ml.engine_openvino import OpenVINOEngine
from ml.engine_torch import TorchEngine
from ml.openvino_model import convert
from tests.engines import CONTEXT, Plain, trained, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = trained(tmp_path_factory.mktemp("model"), steps=40)
    convert(folder, folder / BUNDLED, formats=["fp32"])  # to be compared token by token
    return folder


def make(kind: str, folder: Path, slots: int = 4) -> Engine:
    if kind == "openvino":
        return OpenVINOEngine(str(folder), slots=slots)
    return TorchEngine(str(folder), device="cpu", slots=slots)


@pytest.fixture(params=["torch", "openvino"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def engine(kind: str, folder: Path) -> AsyncIterator[Engine]:
    engine = make(kind, folder)
    await engine.start()
    yield engine
    await engine.close()


async def test_greedy_text_equals_plain_generate(engine: Engine, folder: Path) -> None:
    plain = Plain(folder)
    greedy = Sampling(top_k=1, max_tokens=24)
    prompts = ["Вечер", "Что же, — спросил", "дорога шла полем. — Нашли"]
    written = await asyncio.gather(
        *(write(engine, Request(prompt, sampling=greedy)) for prompt in prompts)
    )
    for prompt, (text, _, _) in zip(prompts, written, strict=True):
        assert text == plain.write(prompt, 24)
        assert len(text) > 10


async def test_bytes_that_are_no_letter_leave_no_sign(engine: Engine) -> None:
    # «кавычки»а\ufffd наедался» stood in a reader's story.
    hot = Sampling(temperature=2.0, top_k=0, top_p=1.0, max_tokens=60)
    written = [await write(engine, Request("Вечер", sampling=hot, seed=n)) for n in range(4)]
    assert not any("\ufffd" in text for text, _, _ in written)


async def test_a_seed_gives_the_same_text_whatever_else_is_in_the_batch(engine: Engine) -> None:
    def request(seed: int) -> Request:
        return Request("Вечер", seed=seed, sampling=Sampling(temperature=4.0, max_tokens=30))

    alone = await write(engine, request(5))
    crowd = await asyncio.gather(*(write(engine, request(seed)) for seed in (4, 5, 6, 7)))
    assert crowd[1] == alone
    assert len({text for text, _, _ in crowd}) == 4


async def test_the_tokens_and_the_reason_are_told(engine: Engine) -> None:
    _, tokens, reason = await write(engine, Request("Вечер", sampling=Sampling(max_tokens=7)))
    assert tokens <= 7
    assert reason == ("length" if tokens == 7 else "stop")


async def test_a_text_may_end_by_itself(engine: Engine) -> None:
    flat = Sampling(temperature=100, top_k=0, top_p=1.0, max_tokens=60)
    written = await asyncio.gather(
        *(write(engine, Request("Вечер", sampling=flat, seed=n)) for n in range(30))
    )
    ended = [(text, tokens) for text, tokens, reason in written if reason == "stop"]
    assert ended
    assert all(tokens < 60 and "<|" not in text for text, tokens in ended)


async def test_a_cancelled_request_ends_and_the_others_go_on(engine: Engine) -> None:
    long = Sampling(max_tokens=60)
    cancelled = await engine.submit(Request("Вечер", sampling=long, seed=1))
    other = await engine.submit(Request("дорога", sampling=long, seed=2))
    async for _ in cancelled:
        cancelled.cancel()
    assert cancelled.finish_reason == "cancelled"
    assert cancelled.tokens < 60
    assert [piece async for piece in other]
    assert other.finish_reason in ("length", "stop")


async def test_more_requests_than_slots_are_all_written(engine: Engine) -> None:
    requests = [Request("Вечер", seed=i, sampling=Sampling(max_tokens=12)) for i in range(11)]
    written = await asyncio.gather(*(write(engine, request) for request in requests))
    assert all(tokens for _, tokens, _ in written)


async def test_a_reader_who_does_not_read_holds_nobody_up(engine: Engine) -> None:
    settings = Sampling(max_tokens=12, top_k=1)
    unread = [await engine.submit(Request("Вечер", sampling=settings)) for _ in range(4)]
    _, tokens, _ = await write(engine, Request("Вечер", sampling=settings))
    assert [stream.tokens for stream in unread] == [tokens] * 4


async def test_an_opening_that_leaves_no_room_is_refused(engine: Engine) -> None:
    limit = engine.card.prompt_tokens
    assert limit == CONTEXT // 2
    with pytest.raises(PromptTooLongError, match=f"prompt_too_long .* {limit}$"):
        await engine.submit(Request("Вечер был тихий; " * 100))


async def test_a_long_context_is_cut_from_its_beginning_and_fills_no_more(engine: Engine) -> None:
    request = Request("Вечер", context="дорога шла полем. " * 200, sampling=Sampling())
    _, tokens, _ = await write(engine, request)
    assert 0 < tokens <= CONTEXT - engine.card.prompt_tokens


async def test_an_empty_request_is_written_from_nothing(engine: Engine) -> None:
    _, tokens, _ = await write(engine, Request("", sampling=Sampling(max_tokens=5)))
    assert tokens


async def test_top_k_of_zero_is_off(engine: Engine) -> None:
    # It left one token, the likeliest: stories repeated one word.
    def request(top_k: int) -> Request:
        wide = Sampling(temperature=5.0, top_p=1.0, top_k=top_k, max_tokens=20)
        return Request("Вечер", seed=3, sampling=wide)

    off, all_of_them, more_than_there_are, one = await asyncio.gather(
        *(write(engine, request(top_k)) for top_k in (0, 420, 1_000_000, 1))
    )
    assert off == all_of_them == more_than_there_are
    assert off != one


async def test_a_small_min_p_changes_a_wild_text_and_a_whole_one_is_greedy(
    engine: Engine,
) -> None:
    def request(**settings: float) -> Request:
        wild = Sampling(temperature=1.5, top_p=1.0, top_k=0, max_tokens=24, **settings)
        return Request("дорога", seed=2, sampling=wild)

    wild, strict = await asyncio.gather(
        *(write(engine, request(min_p=share)) for share in (0.0, 1.0))
    )
    greedy = await write(engine, Request("дорога", sampling=Sampling(top_k=1, max_tokens=24)))
    assert strict == greedy
    assert wild != greedy


async def test_repetition_penalty_equals_plain_generate_in_a_crowd(
    engine: Engine, folder: Path
) -> None:
    plain = Plain(folder)
    penalties = [1.0, 3.0, 1.5]
    settings = [
        Sampling(top_k=1, max_tokens=24, repetition_penalty=penalty) for penalty in penalties
    ]
    written = await asyncio.gather(
        *(write(engine, Request("Вечер", sampling=one)) for one in settings)
    )
    for penalty, (text, _, _) in zip(penalties, written, strict=True):
        assert text == plain.write("Вечер", 24, repetition_penalty=penalty)
    assert written[0] != written[1]


async def test_whole_numbers_may_stand_for_real_ones(engine: Engine) -> None:
    # A job's settings come from JSON, where 1.0 may have become 1; the library refused it.
    text, tokens, _ = await write(
        engine, Request("Вечер", sampling=Sampling(temperature=1, top_p=1, max_tokens=3))
    )
    assert tokens
    assert text


async def test_the_card_names_the_weights(engine: Engine) -> None:
    assert engine.card.name == "toy"
    assert len(engine.card.version) == 12


async def test_closing_twice_is_closing_once(kind: str, folder: Path) -> None:
    engine = make(kind, folder, slots=1)
    await engine.start()
    begun = await engine.submit(Request("Вечер"))
    await engine.close()
    await engine.close()
    assert begun.finish_reason == "cancelled"
    with pytest.raises(EngineError, match="ended"):
        await engine.submit(Request("Вечер"))


async def test_a_missing_model_is_one_clear_error(kind: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot load the model"):
        await make(kind, tmp_path / "nowhere").start()
