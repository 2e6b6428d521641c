"""The torch engine on a tiny model: the library's tokens, seeds, cancelling, limits."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ml.checkpoint import export
from ml.engine import EngineError, PromptTooLongError, Request, Sampling
from ml.engine_torch import SeededChoice, TorchEngine
from ml.gpt import gpt_config, new_gpt
from ml.tokenizer import train

CONTEXT = 96


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that knows one sentence by heart, as the worker would find it on disk."""
    folder = tmp_path_factory.mktemp("model")
    text = "Вечер был тихий; дорога шла полем. — Что же, — спросил офицер, — нашли их?\n"
    tokenizer = train([text * 20], vocabulary=420)
    config = gpt_config(vocabulary=len(tokenizer), context=CONTEXT, width=32, layers=2, heads=2)
    model = new_gpt(config, seed=1)
    ids = torch.tensor([tokenizer.encode(text * 3)[: CONTEXT + 1]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(40):
        loss = model(ids[:, :-1], ids[:, 1:])[1]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    export(model, tokenizer, {"name": "toy", "parameters": 1}, folder)
    return folder


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[TorchEngine]:
    engine = TorchEngine(str(folder), device="cpu", slots=4)
    await engine.start()
    yield engine
    await engine.close()


async def write(engine: TorchEngine, request: Request) -> tuple[str, int, str | None]:
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


def test_the_draw_follows_the_distribution() -> None:
    """Frequencies over 4,000 keys against the softmax, at five standard deviations."""
    scores = torch.tensor([[2.0, 1.0, 0.0, -1.0, -torch.inf]])
    count = 4000
    drawn = SeededChoice()(scores.expand(count, -1), torch.arange(count, dtype=torch.int32))
    shares = (drawn == 0).double().mean(0)
    expected = scores.double().softmax(-1)[0]
    deviation = (expected * (1 - expected) / count).sqrt()
    assert ((shares - expected).abs() <= 5 * deviation).all()
    assert ((drawn == 0).sum(-1) == 1).all()
