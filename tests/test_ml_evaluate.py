"""Bits per character against a slow count that predicts one token at a time."""

import math

import pytest
import torch
from torch import Tensor

from ml.evaluate import bits_per_character
from ml.gpt import CausalLM
from tests import toy

CONTEXT = 16
VOCABULARY = 40
LETTERS = toy.Letters(VOCABULARY)


def slow(model: CausalLM, documents: list[str], context: int) -> float:
    """Predict every token on its own, from exactly the tokens that its window shows.

    A window begins at the end-of-text token; when a token would not fit into it any more, the
    next begins half a context before that token.
    """
    bits = 0.0
    for document in documents:
        ids = [LETTERS.eos_token_id, *LETTERS.encode(document)]
        begin = 0
        for place in range(1, len(ids)):
            if place - begin > context:
                begin = place - context // 2
            with torch.no_grad():
                logits, _ = model(torch.tensor([ids[begin:place]]))
            bits -= math.log2(logits[0, -1].double().softmax(-1)[ids[place]].item())
    return bits / sum(map(len, documents))


@pytest.mark.parametrize("context", [CONTEXT, 15, 4, 2])
@pytest.mark.parametrize("length", [1, 7, 15, 16, 17, 24, 25, 26, 33, 100])
def test_figure_equals_the_slow_count(length: int, context: int) -> None:
    model = toy.toy_model(VOCABULARY, context=CONTEXT, sharpen=8)
    document = toy.ROAD[:length]
    fast = bits_per_character(model, LETTERS, [document], context=context)
    assert fast == pytest.approx(slow(model, [document], context), rel=1e-5)


def test_documents_are_averaged_by_their_characters() -> None:
    model = toy.toy_model(VOCABULARY, context=CONTEXT, sharpen=8)
    documents = [toy.ROAD[:50], toy.LETTER[:5], "", toy.EVENING[:20]]
    fast = bits_per_character(model, LETTERS, documents, context=CONTEXT)
    assert fast == pytest.approx(slow(model, documents, CONTEXT), rel=1e-5)


def test_tokens_seen_before_matter() -> None:
    # What makes the comparison above mean something: this model does look at its context.
    model = toy.toy_model(VOCABULARY, context=CONTEXT, sharpen=8)
    figures = [
        bits_per_character(model, LETTERS, [toy.ROAD[:100]], context=context)
        for context in (2, 8, CONTEXT)
    ]
    assert abs(figures[0] - figures[1]) > 0.01
    assert abs(figures[1] - figures[2]) > 0.01


def test_uniform_model_pays_the_whole_vocabulary_for_each_token() -> None:
    tokenizer = toy.toy_tokenizer()
    model = toy.toy_model(len(tokenizer), context=CONTEXT, sharpen=0)
    documents = [toy.ROAD, toy.LETTER[:30]]
    tokens = sum(len(tokenizer.encode(document)) for document in documents)
    characters = sum(map(len, documents))
    assert tokens != characters
    figure = bits_per_character(model, tokenizer, documents, context=CONTEXT)
    assert figure == pytest.approx(math.log2(len(tokenizer)) * tokens / characters, rel=1e-6)


def test_measuring_changes_nothing_and_repeats_itself() -> None:
    model = toy.toy_model(VOCABULARY, context=CONTEXT, sharpen=8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = bits_per_character(model, LETTERS, [toy.ROAD], context=CONTEXT)
    assert bits_per_character(model, LETTERS, [toy.ROAD], context=CONTEXT) == first
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_model_in_bf16_is_measured_as_it_is() -> None:
    model = toy.toy_model(VOCABULARY, context=CONTEXT, sharpen=8)
    full = bits_per_character(model, LETTERS, [toy.ROAD], context=CONTEXT)
    half = bits_per_character(model.bfloat16(), LETTERS, [toy.ROAD], context=CONTEXT)
    assert half != full
    assert half == pytest.approx(full, rel=0.05)


def test_tokens_go_where_the_model_is() -> None:
    # On a GPU the ids stayed on the CPU; the device "meta" stands for a GPU here.
    class SeenError(Exception):
        pass

    class Probe(CausalLM):
        def forward(self, ids: Tensor, targets: Tensor | None = None) -> tuple[Tensor, None]:
            assert targets is None
            raise SeenError(ids.device.type)

    probe = Probe(toy.toy_model(VOCABULARY).model).to("meta")
    with pytest.raises(SeenError, match="meta"):
        bits_per_character(probe, LETTERS, [toy.LETTER], context=CONTEXT)
