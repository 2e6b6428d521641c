"""The small GPT: GPT-2's architecture at a size that two cores can train.

Shapes: B sequences, T tokens, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel


def gpt_config(*, vocabulary: int, context: int, width: int, layers: int, heads: int) -> GPT2Config:
    """Return GPT-2's configuration; token 0 begins and ends a text."""
    return GPT2Config(
        vocab_size=vocabulary,
        n_positions=context,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=0.0,  # less than one pass over most of the data: nothing to regularise
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )


class CausalLM(nn.Module):
    """Any causal language model of transformers behind our models' one signature."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Map ids (B, T) to logits (B, T, V) and, given targets (B, T), their mean loss in nats."""
        logits = self.model(ids, use_cache=False).logits
        if targets is None:
            return logits, None
        loss = functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        return logits, loss


def new_gpt(config: GPT2Config, seed: int) -> CausalLM:
    """Build a model with GPT-2's random initialisation, the same for the same seed."""
    torch.manual_seed(seed)
    return CausalLM(GPT2LMHeadModel._from_config(config, attn_implementation="sdpa"))
