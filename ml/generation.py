"""Draw texts from a model: the samples of a training run, the generations that tables judge.

    write(model, tokenizer, "Мороз и солнце", tokens=200, context=512, seed=1)
    await tell(TorchEngine("ml/pretrained/pushkin-mini"), openings)  # as readers get them

``write`` is the plain loop, one text at a time, the whole window again for every token: it serves
every model with ``forward(ids) -> (logits, None)``.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast
from transformers.generation import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ml.decoding import trim
from ml.engine import Engine, Request, Sampling


@torch.inference_mode()
def write(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    prompt: str,
    *,
    tokens: int,
    context: int,
    seed: int,
    sampling: Sampling | None = None,
) -> str:
    """Return the prompt with up to ``tokens`` tokens more; the end of a text ends it.

    ``context`` is the number of tokens the model looks back on. Same seed, same text; the global
    random state is left alone.
    """
    model.eval()
    warp: Any = _warpers(sampling or Sampling())
    generator = torch.Generator().manual_seed(seed)
    end = tokenizer.eos_token_id
    ids = torch.tensor([[end, *tokenizer.encode(prompt)]])
    begin = ids.shape[1]
    while ids.shape[1] < begin + tokens:
        logits, _ = model(ids[:, -context:])
        scores = warp(ids, logits[:, -1].float())
        token = torch.multinomial(scores.softmax(-1), 1, generator=generator)
        if token.item() == end:
            break
        ids = torch.cat([ids, token], dim=1)
    return prompt + str(tokenizer.decode(ids[0, begin:].tolist()))


def _warpers(sampling: Sampling) -> LogitsProcessorList:
    """Return what the engine applies, in its order."""
    processors: list[Any] = []
    if sampling.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty)))
    processors.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    processors.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        processors.append(MinPLogitsWarper(sampling.min_p))
    return LogitsProcessorList(processors)


async def tell(
    engine: Engine, openings: Sequence[str], *, seed: int = 0, sampling: Sampling | None = None
) -> list[str]:
    """Return what a reader gets for each opening, without the opening; starts and ends the engine.

    The bot's settings unless others are given; opening number n is written with the seed
    ``seed + n``.
    """
    await engine.start()
    try:
        return await asyncio.gather(
            *(
                _tell_one(engine, Request(opening, sampling=sampling or Sampling(), seed=seed + n))
                for n, opening in enumerate(openings)
            )
        )
    finally:
        await engine.close()


async def _tell_one(engine: Engine, request: Request) -> str:
    stream = await engine.submit(request)
    opening, text = request.prompt, "".join([piece async for piece in stream])
    whole = trim(opening + text) if stream.finish_reason == "length" else opening + text.rstrip()
    return whole[len(opening) :]
