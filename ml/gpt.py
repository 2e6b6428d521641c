"""The small GPT at a size that two cores can train: GPT-2's architecture or Llama's.

Shapes: B sequences, T tokens, V vocabulary.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from ml import attention

# ai-forever/rugpt3medium_based_on_gpt2, as its config.json says; heads are GPT-2 medium's.
RUGPT3_MEDIUM = {"vocabulary": 50_264, "context": 2048, "width": 1024, "layers": 24, "heads": 16}
_CHUNK = 512  # rows of logits at once


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


def llama_config(
    *, vocabulary: int, context: int, width: int, layers: int, heads: int
) -> LlamaConfig:
    """Return Llama's configuration with about as many parameters a layer as GPT-2's."""
    return LlamaConfig(
        vocab_size=vocabulary,
        max_position_embeddings=context,
        hidden_size=width,
        intermediate_size=round(width * 8 / 3 / 32) * 32,  # three matrices in place of two
        num_hidden_layers=layers,
        num_attention_heads=heads,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )


ARCHITECTURES = {"gpt2": gpt_config, "llama": llama_config}


class _LossInChunks(torch.autograd.Function):
    """Mean cross-entropy of hidden (N, E) @ head (V, E).T, some rows at a time, and its gradients.

    What a chunk's probabilities are needed for is done while they are in the cache; N x V logits
    would go to memory and back four times.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        slope, head_slope = torch.empty_like(hidden), torch.zeros_like(head, dtype=torch.float32)
        total = torch.zeros((), dtype=torch.float32)
        for rows, wanted, place in zip(
            hidden.split(_CHUNK), targets.split(_CHUNK), slope.split(_CHUNK), strict=True
        ):
            known = (rows @ head.T).float().log_softmax(-1)
            total = total - known.gather(1, wanted[:, None]).sum()
            hot = torch.arange(head.shape[0]) == wanted[:, None]
            error = ((known.exp() - hot.float()) / len(hidden)).to(head.dtype)
            place.copy_(error @ head)
            head_slope += error.T @ rows
        ctx.save_for_backward(slope, head_slope)
        return total / len(hidden)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        slope, head_slope = ctx.saved_tensors
        return grads[0] * slope, (grads[0] * head_slope).to(slope.dtype), None


class CausalLM(nn.Module):
    """Any causal language model of transformers behind our models' one signature."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Map ids (B, T) to logits (B, T, V) and, given targets (B, T), their mean loss in nats.

        Compiled for a CPU and given targets it returns no logits: they are never whole in memory.
        """
        if targets is not None and torch.compiler.is_compiling() and ids.device.type == "cpu":
            hidden = self.model.base_model(ids, use_cache=False).last_hidden_state
            head = self.model.get_output_embeddings().weight
            low = torch.bfloat16 if torch.is_autocast_enabled("cpu") else hidden.dtype
            parts = hidden.flatten(0, 1).to(low), head.to(low), targets.flatten()
            return hidden.new_empty(0), _LossInChunks.apply(*parts)
        logits = self.model(ids, use_cache=False).logits
        if targets is None:
            return logits, None
        loss = functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        return logits, loss


def new_gpt(config: PretrainedConfig, seed: int) -> CausalLM:
    """Build a model with its architecture's random initialisation, the same for the same seed."""
    torch.manual_seed(seed)
    return CausalLM(AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME))


def load_gpt(folder: Path) -> CausalLM:
    """Load a model folder in fp32, to train it further or to measure it."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention.NAME
    )
    return CausalLM(model)


def flops_per_token(model: CausalLM, context: int) -> float:
    """Return the floating-point operations that training on one token takes, both ways.

    6 for each parameter that multiplies, 6 L T E for attention over half the context (J. Hoffmann
    et al., "Training compute-optimal large language models", 2022, appendix F, for causal masks).
    """
    config = model.model.config
    matrices = sum(
        p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "wpe" not in name
    )
    return 6.0 * matrices + 6.0 * config.num_hidden_layers * context * config.hidden_size
