"""How well a model predicts held-out works, in bits per character.

Bits per character = (sum of -log2 p(token | tokens before)) / (characters of the text). Unlike
perplexity per token it does not depend on the vocabulary. The first token of a document is
predicted from the end-of-text token; the end of the document itself is not scored. Windows
overlap by half, so past the first window every token sees at least half a context.
"""

import math
from collections.abc import Sequence

import torch
from torch.nn import functional

from ml.dataset import Encoder
from ml.gpt import CausalLM


@torch.inference_mode()
def bits_per_character(
    model: CausalLM, tokenizer: Encoder, documents: Sequence[str], *, context: int
) -> float:
    """Return the mean over all characters of ``documents``; ``context`` is the window in tokens.

    Runs in the precision of the model's weights, one window at a time.
    """
    model.eval()
    device = next(model.parameters()).device
    stride = context // 2
    nats = 0.0
    for document in documents:
        ids = torch.tensor([tokenizer.eos_token_id, *tokenizer.encode(document)], device=device)
        scored = 1  # ids[:scored] have been predicted
        while scored < len(ids):
            begin = max(0, scored - stride) if scored > 1 else 0
            window = ids[begin : begin + context + 1]
            logits, _ = model(window[None, :-1])
            fresh = scored - begin - 1  # the first prediction of this window that counts
            nats += functional.cross_entropy(
                logits[0, fresh:].float(), window[fresh + 1 :], reduction="sum"
            ).item()
            scored = begin + len(window)
    return nats / math.log(2) / sum(len(document) for document in documents)
