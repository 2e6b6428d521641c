"""What the torch engine adds to the library's per-request filters of scores.

The library filters each request of a batch by its own temperature, top-k and top-p. Here are the
other two of ``Sampling``, the same as transformers' for one text, and the draw itself, by the
request's own seed. ``install`` puts all of them in transformers' order.

Shapes: B requests with a new token, V tokens in the vocabulary. A processor hands itself one
number a request through ``prepare_tensor_args``, as int32 or as the bits of a float32.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.generation import LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState

from ml.decoding import Sampling

_Requests = list[FutureRequestState]


def install(
    processors: ContinuousBatchingLogitsProcessorList,
    *,
    slots: int,
    vocabulary: int,
    device: torch.device,
) -> None:
    """Put ours around the library's three."""
    penalty = RepetitionPenalty(slots, vocabulary, device)
    processors.logits_processor = LogitsProcessorList(
        [penalty, *processors.logits_processor, MinP(), SeededChoice()]
    )
    processors.tensors_required += 3
    processors._retrieve_processors_kwargs()


def arguments(sampling: Sampling, vocabulary: int) -> dict[str, Any]:
    """Return a request's settings as the processors take them."""
    return {
        "temperature": float(sampling.temperature),
        "top_p": float(sampling.top_p),
        # The library takes 0 for 1, and stumbles over more tokens than there are.
        "top_k": min(sampling.top_k or vocabulary, vocabulary),
        "min_p": float(sampling.min_p),
        "repetition_penalty": float(sampling.repetition_penalty),
    }


def _own(requests: _Requests, name: str, default: float) -> list[float]:
    return [request.state.logit_processor_kwargs.get(name, default) for request in requests]


def _bits(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(torch.int32)


def _fill(int32_tensor: Tensor, value: float) -> None:
    int32_tensor.copy_(torch.full_like(int32_tensor, value, dtype=torch.float32).view(torch.int32))


class RepetitionPenalty(ContinuousBatchingLogitsProcessor):
    """Makes each token of the prompt or the text so far less likely (or more, below 1).

    A positive score is divided by the penalty, a negative one multiplied (N. S. Keskar et al.,
    "CTRL", 2019, section 4.1).
    """

    supported_kwargs = {"repetition_penalty": float}  # noqa: RUF012 (the base class annotates it)
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self, slots: int, vocabulary: int, device: torch.device) -> None:
        # One tensor for good: a CUDA graph goes on reading where it was captured.
        self._said = torch.zeros(slots, vocabulary, dtype=torch.bool, device=device)

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        _fill(int32_tensor, 1.0)

    def prepare_tensor_args(self, requests_with_new_token: _Requests) -> Tensor:
        penalties = _own(requests_with_new_token, "repetition_penalty", 1.0)
        for row, request in enumerate(requests_with_new_token):
            if penalties[row] != 1.0:
                ids = request.state.initial_tokens + request.state.generated_tokens
                self._said[row] = False
                self._said[row, torch.tensor(ids, device=self._said.device)] = True
        return _bits(penalties)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        """Return scores (B, V)."""
        rows = scores.size(0)
        penalties = tensor_arg[:rows, None].view(torch.float32)  # (B, 1)
        lowered = torch.where(scores < 0, scores * penalties, scores / penalties)
        return torch.where(self._said[:rows], lowered, scores)


class MinP(ContinuousBatchingLogitsProcessor):
    """Leaves the tokens that have at least a share of the likeliest one's probability."""

    supported_kwargs = {"min_p": float}  # noqa: RUF012 (the base class annotates it)
    ignored_kwargs: tuple[str, ...] = ()

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        _fill(int32_tensor, 0.0)

    def prepare_tensor_args(self, requests_with_new_token: _Requests) -> Tensor:
        return _bits(_own(requests_with_new_token, "min_p", 0.0))

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        """Return scores (B, V), -inf where the probability is too small."""
        shares = tensor_arg[: scores.size(0), None].view(torch.float32)  # (B, 1)
        least = scores.amax(-1, keepdim=True) + shares.log()  # log 0 = -inf: nothing is too small
        return scores.masked_fill(scores < least, -torch.inf)


class SeededChoice(ContinuousBatchingLogitsProcessor):
    """Draws the token here, from the request's own seed, and leaves only it to be sampled.

    The Gumbel-max trick: argmax(scores + g) with g = -log(-log u) is a draw from softmax(scores).
    u comes from a hash of (seed, place in the story, token), so the draw does not depend on what
    else is in the batch, and the same lines run on every device.
    """

    supported_kwargs = {"seed": int}  # noqa: RUF012 (the base class annotates it)
    ignored_kwargs: tuple[str, ...] = ()

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: _Requests) -> Tensor:
        keys = [
            (future.state.logit_processor_kwargs.get("seed", 0) * 0x9E3779B1)
            ^ (_written(future.state) * 0x85EBCA77)
            for future in requests_with_new_token
        ]
        return torch.tensor([key & 0x7FFFFFFF for key in keys], dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        """Return scores (B, V) that are -inf but for the drawn token."""
        keys = tensor_arg[: scores.size(0), None].long()  # (B, 1)
        tokens = torch.arange(scores.size(1), device=scores.device)[None]  # (1, V)
        bits = _mix(_mix(keys) + tokens)  # (B, V), 31 bits each
        uniform = (bits.double() + 0.5) / 2**31
        drawn = (scores.double() - (-uniform.log()).log()).argmax(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter(-1, drawn, 0.0)


def _written(state: RequestState) -> int:
    """Return how many tokens are written, also before the library set the request back.

    When the cache is full it makes the text so far a part of the prompt and begins again.
    """
    begin = state._true_initial_tokens or len(state.initial_tokens)
    return len(state.initial_tokens) - begin + state.generated_len()


def _mix(x: Tensor) -> Tensor:
    """Scramble integers to 31 bits (the finaliser of MurmurHash3, on 32 of int64's bits)."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * factor & 0xFFFFFFFF
    return (x ^ (x >> 16)) & 0x7FFFFFFF
