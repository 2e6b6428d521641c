"""The engine's own processors against transformers' slow ones, and the draw."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.generation import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState

from ml.decoding import Sampling
from ml.processors import MinP, RepetitionPenalty, SeededChoice, arguments, install

V = 50  # tokens in the vocabulary
CPU = torch.device("cpu")


def request(prompt: list[int], written: list[int], **kwargs: Any) -> FutureRequestState:
    state = RequestState("a", prompt, generated_tokens=list(written), logit_processor_kwargs=kwargs)
    return FutureRequestState(state, has_new_token=True, complete_blocks={}, query_length=1)


def some_scores(rows: int) -> Tensor:
    return torch.randn(rows, V, generator=torch.Generator().manual_seed(3)) * 3


def test_min_p_is_transformers_min_p_for_each_request() -> None:
    shares = [0.0, 0.02, 0.3, 1.0]
    scores, processor = some_scores(len(shares)), MinP()
    arguments = processor.prepare_tensor_args([request([1], [], min_p=share) for share in shares])
    found = processor(scores, arguments)
    ids: Any = torch.zeros(1, 1, dtype=torch.long)
    for row, share in enumerate(shares):
        expected = MinPLogitsWarper(share)(ids, scores[row : row + 1])
        assert torch.equal(found[row : row + 1], expected)
    left = (found > -torch.inf).sum(-1).tolist()
    assert left[0] == V > left[1] > left[2] > left[3] == 1


def test_repetition_penalty_is_transformers_penalty_for_each_request() -> None:
    said = [([1, 2, 2], [7, 9]), ([3], []), ([4, 5], [5, 6]), ([8], [1])]
    penalties = [1.3, 2.0, 1.0, 0.5]
    scores = some_scores(len(said))
    processor = RepetitionPenalty(slots=6, vocabulary=V, device=CPU)
    for _ in range(2):  # the second batch finds what the first left
        said, penalties = said[::-1], penalties[::-1]
        requests = [
            request(prompt, written, repetition_penalty=penalty)
            for (prompt, written), penalty in zip(said, penalties, strict=True)
        ]
        found = processor(scores, processor.prepare_tensor_args(requests))
        for row, (prompt, written) in enumerate(said):
            slow = RepetitionPenaltyLogitsProcessor(penalties[row])
            expected = slow(torch.tensor([prompt + written]), scores[row : row + 1].clone())
            assert torch.equal(found[row : row + 1], expected)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=1, top_p=1, top_k=0),
        Sampling(temperature=2, top_p=0.7, top_k=0, min_p=0.05),
        Sampling(temperature=0.7, top_p=1, top_k=1_000_000, repetition_penalty=1.4),
        Sampling(temperature=1.5, top_p=0.95, top_k=20, min_p=0.1, repetition_penalty=1.2),
    ],
)
def test_all_filters_together_leave_what_transformers_leaves(sampling: Sampling) -> None:
    chain = ContinuousBatchingLogitsProcessorList(
        LogitsProcessorList(
            [TemperatureLogitsWarper(0.5), TopKLogitsWarper(1), TopPLogitsWarper(0.5)]
        ),
        per_request_processors=True,
    )
    install(chain, slots=2, vocabulary=V, device=CPU)
    chain.logits_processor.pop()  # the draw
    kwargs = arguments(sampling, V)
    chain.check_kwargs(kwargs)
    prompt, written, scores = [4, 5, 6], [7, 4], some_scores(1)
    storage = torch.zeros(chain.tensors_required, 2, dtype=torch.int32)
    chain.prepare_tensor_args([request(prompt, written, **kwargs)], storage)
    ids: Any = torch.tensor([prompt + written])
    found = chain(ids, scores, storage)
    slow = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty)),
            TemperatureLogitsWarper(float(sampling.temperature)),
            TopPLogitsWarper(sampling.top_p),
            MinPLogitsWarper(sampling.min_p),
        ]
    )
    if sampling.top_k:
        slow.insert(2, TopKLogitsWarper(sampling.top_k))
    torch.testing.assert_close(found, slow(ids, scores.clone()))


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


def test_a_request_set_back_by_a_full_cache_draws_on_from_where_it_was() -> None:
    # The library makes the text so far a part of the prompt; the draws began anew.
    whole = request([1, 2, 3], [4, 5], seed=9)
    back = request([1, 2, 3], [4, 5], seed=9)
    back.state = back.state.create_equivalent_initial_request()
    assert back.state.generated_tokens == []
    again = request([1, 2, 3], [], seed=9)
    keys = SeededChoice().prepare_tensor_args([whole, back, again]).tolist()
    assert keys[0] == keys[1] != keys[2]
