"""Draw a text from any model of ours: the samples of a training run, the tables' generations.

    write(model, tokenizer, "Мороз и солнце", tokens=200, context=512, seed=1)

The plain loop, one text at a time, the whole window again for every token: it serves every model
with ``forward(ids) -> (logits, None)``. What serves readers is ``ml.engine``.
"""

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.generation import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ml.engine import Sampling


@torch.inference_mode()
def write(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
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
    warp = _warpers(sampling or Sampling())
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
    return prompt + tokenizer.decode(ids[0, begin:])


def _warpers(sampling: Sampling) -> LogitsProcessorList:
    return LogitsProcessorList(
        [
            TemperatureLogitsWarper(sampling.temperature),
            TopKLogitsWarper(sampling.top_k),
            TopPLogitsWarper(sampling.top_p),
        ]
    )
