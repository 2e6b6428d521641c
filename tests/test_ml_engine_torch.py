"""The torch engine on a tiny model: the library's tokens, seeds, cancelling, limits."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ml import registry
from ml.checkpoint import export
from ml.engine import Engine, EngineError, PromptTooLongError, Request, Sampling
from ml.engine_torch import TorchEngine
from ml.gpt import gpt_config, new_gpt
from ml.serving import Served
from ml.tokenizer import train
from ml.worker import WorkerSettings, make_load

CONTEXT = 96


def trained(folder: Path, steps: int) -> Path:
    """Write a tiny model that learns one sentence by heart, as the worker would find it."""
    text = "Вечер был тихий; дорога шла полем. — Что же, — спросил офицер, — нашли их?\n"
    tokenizer = train([text * 20], vocabulary=420)
    config = gpt_config(vocabulary=len(tokenizer), context=CONTEXT, width=32, layers=2, heads=2)
    model = new_gpt(config, seed=1)
    ids = torch.tensor([tokenizer.encode(text * 3)[: CONTEXT + 1]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(steps):
        loss = model(ids[:, :-1], ids[:, 1:])[1]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    export(model, tokenizer, {"name": "toy", "parameters": 1}, folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("model"), steps=40)


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[TorchEngine]:
    engine = TorchEngine(str(folder), device="cpu", slots=4)
    await engine.start()
    yield engine
    await engine.close()


async def write(engine: Engine, request: Request) -> tuple[str, int, str | None]:
    stream = await engine.submit(request)
    text = "".join([piece async for piece in stream])
    return text, stream.tokens, stream.finish_reason


async def test_greedy_text_equals_plain_generate(engine: TorchEngine, folder: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    greedy = Sampling(top_k=1, max_tokens=24)
    prompts = ["Вечер", "Что же, — спросил", "дорога шла полем. — Нашли"]
    written = await asyncio.gather(
        *(write(engine, Request(prompt, sampling=greedy)) for prompt in prompts)
    )
    for prompt, (text, _, _) in zip(prompts, written, strict=True):
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        slow = model.generate(**ids, do_sample=False, max_new_tokens=24, pad_token_id=0)
        written_slowly = slow[0, ids.input_ids.shape[1] :]
        expected = str(tokenizer.decode(written_slowly, skip_special_tokens=True))
        assert text == expected.rstrip("\ufffd")
        assert len(text) > 10


async def test_bytes_that_are_no_letter_leave_no_sign(engine: TorchEngine) -> None:
    # «кавычки"а\ufffd наедался» stood in a reader's story.
    hot = Sampling(temperature=2.0, top_k=0, top_p=1.0, max_tokens=60)
    written = [await write(engine, Request("Вечер", sampling=hot, seed=n)) for n in range(4)]
    assert not any("\ufffd" in text for text, _, _ in written)
    tokens = engine._tokenizer.encode("漢", add_special_tokens=False)
    assert engine._tokenizer.decode(tokens[:1]) == "\ufffd"  # spelled in bytes


async def test_a_seed_gives_the_same_text_whatever_else_is_in_the_batch(
    engine: TorchEngine,
) -> None:
    def request(seed: int) -> Request:
        return Request("Вечер", seed=seed, sampling=Sampling(temperature=4.0, max_tokens=30))

    alone = await write(engine, request(5))
    crowd = await asyncio.gather(*(write(engine, request(seed)) for seed in (4, 5, 6, 7)))
    assert crowd[1] == alone
    assert len({text for text, _, _ in crowd}) == 4


async def test_the_tokens_and_the_reason_are_told(engine: TorchEngine) -> None:
    _, tokens, reason = await write(engine, Request("Вечер", sampling=Sampling(max_tokens=7)))
    assert tokens <= 7
    assert reason == ("length" if tokens == 7 else "stop")


async def test_a_cancelled_request_ends_and_the_others_go_on(engine: TorchEngine) -> None:
    long = Sampling(max_tokens=60)
    cancelled = await engine.submit(Request("Вечер", sampling=long, seed=1))
    other = await engine.submit(Request("дорога", sampling=long, seed=2))
    async for _ in cancelled:
        cancelled.cancel()
    assert cancelled.finish_reason == "cancelled"
    assert cancelled.tokens < 60
    assert [piece async for piece in other]
    assert other.finish_reason in ("length", "stop")


async def test_more_requests_than_slots_are_all_written(engine: TorchEngine) -> None:
    requests = [Request("Вечер", seed=i, sampling=Sampling(max_tokens=12)) for i in range(11)]
    written = await asyncio.gather(*(write(engine, request) for request in requests))
    assert all(tokens for _, tokens, _ in written)


async def test_an_opening_that_leaves_no_room_is_refused(engine: TorchEngine) -> None:
    limit = engine.card.prompt_tokens
    assert limit == CONTEXT // 2
    with pytest.raises(PromptTooLongError, match=f"prompt_too_long .* {limit}$"):
        await engine.submit(Request("Вечер был тихий; " * 100))


async def test_a_long_context_is_cut_from_its_beginning_and_fills_no_more(
    engine: TorchEngine,
) -> None:
    request = Request("Вечер", context="дорога шла полем. " * 200, sampling=Sampling())
    _, tokens, _ = await write(engine, request)
    assert 0 < tokens <= CONTEXT - engine.card.prompt_tokens


async def test_an_empty_request_is_written_from_nothing(engine: TorchEngine) -> None:
    _, tokens, _ = await write(engine, Request("", sampling=Sampling(max_tokens=5)))
    assert tokens


async def test_the_card_names_the_weights(engine: TorchEngine) -> None:
    assert engine.card.name == "toy"
    assert len(engine.card.version) == 12


async def test_a_missing_model_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot load the model"):
        await TorchEngine(str(tmp_path / "nowhere"), device="cpu").start()


async def test_top_k_of_zero_is_off(engine: TorchEngine) -> None:
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
    engine: TorchEngine,
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
    engine: TorchEngine, folder: Path
) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    penalties = [1.0, 3.0, 1.5]
    written = await asyncio.gather(
        *(
            write(
                engine,
                Request(
                    "Вечер",
                    sampling=Sampling(top_k=1, max_tokens=24, repetition_penalty=penalty),
                ),
            )
            for penalty in penalties
        )
    )
    ids = tokenizer("Вечер", return_tensors="pt", add_special_tokens=False)
    for penalty, (text, _, _) in zip(penalties, written, strict=True):
        slow = model.generate(
            **ids, do_sample=False, max_new_tokens=24, repetition_penalty=penalty, pad_token_id=0
        )
        new = slow[0, ids.input_ids.shape[1] :]
        expected = str(tokenizer.decode(new, skip_special_tokens=True))
        assert text == expected.rstrip("\ufffd")
    assert written[0] != written[1]


async def test_whole_numbers_may_stand_for_real_ones(engine: TorchEngine) -> None:
    # A job's settings come from JSON, where 1.0 may have become 1; the library refused it.
    text, tokens, _ = await write(
        engine, Request("Вечер", sampling=Sampling(temperature=1, top_p=1, max_tokens=3))
    )
    assert tokens
    assert text


async def test_closing_twice_is_closing_once(folder: Path) -> None:
    engine = TorchEngine(str(folder), device="cpu", slots=1)
    await engine.start()
    await engine.close()
    await engine.close()
    with pytest.raises(EngineError, match="thread"):
        await engine.submit(Request("Вечер"))


async def test_rolling_back_gives_byte_identical_text(folder: Path, tmp_path: Path) -> None:
    load = make_load(WorkerSettings(_env_file=None, device="cpu", slots=2))
    other = trained(tmp_path / "other", steps=5)
    old, new = (registry.publish(one, "toy", {}, tmp_path / "models") for one in (folder, other))

    async def story(version: registry.Version) -> str:
        row = Served(1, version.name, version.version, str(version.folder), 0.0)
        engine = await load(row)
        wild = Sampling(temperature=2.0, max_tokens=30)
        text, _, _ = await write(engine, Request("Вечер", seed=11, sampling=wild))
        await engine.close()
        return text

    before, between, after = [await story(version) for version in (old, new, old)]
    assert before.encode() == after.encode()
    assert before != between


async def test_version_that_is_not_what_the_table_says_is_not_loaded(
    folder: Path, tmp_path: Path
) -> None:
    load = make_load(WorkerSettings(_env_file=None, device="cpu", model=str(folder)))
    version = registry.publish(folder, "toy", {}, tmp_path / "models")
    with pytest.raises(registry.RegistryError, match=f"holds toy {version.version}"):
        await load(Served(1, "toy", "0" * 12, str(version.folder), 0.0))
    with pytest.raises(registry.RegistryError, match=r"gone/meta\.json: No such file"):
        await load(Served(1, "toy", version.version, str(tmp_path / "gone"), 0.0))
    with pytest.raises(EngineError, match=f"MODEL is toy {version.version} now"):
        await load(Served(1, "toy", "0" * 12, None, 0.0))


async def test_closed_engine_leaves_nothing_of_its_model(folder: Path) -> None:
    engine = TorchEngine(str(folder), device="cpu", slots=1)
    await engine.start()
    await write(engine, Request("Вечер", sampling=Sampling(max_tokens=3)))
    model = weakref.ref(engine._manager.model)
    await engine.close()
    del engine
    gc.collect()
    assert model() is None
