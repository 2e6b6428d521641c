"""Causal attention for training on a CPU: a form that torch.compile makes faster code of.

    AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME)

PyTorch's kernel of scaled_dot_product_attention multiplies in small tiles on a CPU. torch.compile
makes better code of the formula itself: a block of queries at a time, each with the keys up to its
own end, so that little above the diagonal is worked out. Everywhere else this is "sdpa".
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "causal_blocks"
_BLOCK = 128  # queries


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **rest: Any
) -> tuple[Tensor, None]:
    """Attend from each position to itself and those before: (B, H, T, D) to (B, T, H, D).

    For sequences without padding, from their first token on.
    """
    if not torch.compiler.is_compiling() or query.device.type != "cpu":
        return sdpa_attention_forward(module, query, key, value, mask, **rest)
    scale = rest.get("scaling") or query.shape[-1] ** -0.5
    parts = []
    for begin in range(0, query.shape[2], _BLOCK):
        rows = query[:, :, begin : begin + _BLOCK]
        end = begin + rows.shape[2]
        scores = (rows @ key[:, :, :end].transpose(-1, -2)).float() * scale
        later = torch.arange(end) > torch.arange(begin, end)[:, None]
        weights = scores.masked_fill(later, float("-inf")).softmax(-1)
        parts.append(weights.to(value.dtype) @ value[:, :, :end])
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attend)
