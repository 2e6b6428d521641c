"""How well a model predicts held-out works, in bits per character.

Bits per character = (sum of -log2 p(token | tokens before)) / (characters of the text). Unlike
perplexity per token it does not depend on the vocabulary. The first token of a document is
predicted from the end-of-text token; the end of the document itself is not scored. Windows
overlap by half, so past the first window every token sees at least half a context.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ml.dataset import Encoder

_TOGETHER = 8  # windows in one call


@torch.inference_mode()
def bits_per_character(
    model: nn.Module,
    tokenizer: Encoder,
    documents: Sequence[str],
    *,
    context: int,
) -> float:
    """Return the mean over all characters of ``documents``; ``context`` is the window in tokens.

    Runs in the precision of the model's weights. Any model whose tokens see no later token will do.
    """
    model.eval()
    anywhere = next(model.parameters(), None)
    device = "cpu" if anywhere is None else anywhere.device  # n-grams have no parameters
    windows = sorted(_windows(tokenizer, documents, context), key=lambda w: -len(w[0]))
    nats = 0.0
    for first in range(0, len(windows), _TOGETHER):
        rows = windows[first : first + _TOGETHER]
        ids = torch.zeros(len(rows), len(rows[0][0]), dtype=torch.int64)
        scored = torch.zeros(ids.shape, dtype=torch.bool)
        for place, (row, fresh) in enumerate(rows):
            ids[place, : len(row)] = row
            scored[place, fresh + 1 : len(row)] = True
        ids, scored = ids.to(device), scored.to(device)
        logits, _ = model(ids[:, :-1])
        nats += functional.cross_entropy(
            logits[scored[:, 1:]].float(), ids[:, 1:][scored[:, 1:]], reduction="sum"
        ).item()
    return nats / math.log(2) / sum(map(len, documents))


def _windows(
    tokenizer: Encoder, documents: Sequence[str], context: int
) -> Iterator[tuple[Tensor, int]]:
    """Yield up to context + 1 tokens and the place of the first whose prediction counts."""
    stride = context // 2
    for document in documents:
        ids = torch.tensor([tokenizer.eos_token_id, *tokenizer.encode(document)])
        scored = 1  # ids[:scored] have been predicted
        while scored < len(ids):
            begin = max(0, scored - stride) if scored > 1 else 0
            window = ids[begin : begin + context + 1]
            yield window, scored - begin - 1
            scored = begin + len(window)
