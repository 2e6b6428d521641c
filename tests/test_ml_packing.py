"""Packing: hardly a position without a loss, every token once, and no document sees another."""

import itertools

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from ml.gpt import ARCHITECTURES
from ml.packing import NO_LABEL, pack_documents

END = 0


def documents(count: int, low: int, high: int, seed: int = 1) -> list[list[int]]:
    dice = np.random.default_rng(seed)
    return [
        dice.integers(1, 50, int(length)).tolist() for length in dice.integers(low, high, count)
    ]


@pytest.mark.parametrize("window", [512, 2048])
def test_stories_fill_ninety_eight_of_a_hundred_positions(window: int) -> None:
    # 2,034 to 3,956 characters of 4.19 a token, as the first project's synthetic texts.
    packed = pack_documents(documents(700, 485, 944), window=window, end=END)
    assert packed.share >= 0.98


@pytest.mark.parametrize("window", [16, 64, 512])
def test_every_token_is_a_label_exactly_once(window: int) -> None:
    texts = documents(30, 1, 200)
    packed = pack_documents(texts, window=window, end=END)
    labels = packed.labels[packed.labels != NO_LABEL]
    expected = sorted(token for text in texts for token in [*text, END])
    assert sorted(labels.tolist()) == expected
    assert packed.tokens == len(expected)


def test_label_stands_where_its_token_does_and_positions_begin_anew() -> None:
    packed = pack_documents([[5, 6, 7], [8, 9]], window=16, end=END)
    assert packed.ids[0, :9].tolist() == [0, 5, 6, 7, 0, 0, 8, 9, 0]
    assert packed.labels[0, :9].tolist() == [-100, 5, 6, 7, 0, -100, 8, 9, 0]
    assert packed.positions[0, :9].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]


def test_rows_are_filled_up_to_a_multiple_by_rows_that_teach_nothing() -> None:
    packed = pack_documents([[5] * 14] * 3, window=16, end=END, multiple=4)
    assert len(packed) == 4
    assert (packed.labels[3] == NO_LABEL).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_document_attends_to_another(architecture: str) -> None:
    shape = {"vocabulary": 50, "context": 64, "width": 16, "layers": 2, "heads": 2}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        ARCHITECTURES[architecture](**shape), attn_implementation="sdpa"
    ).eval()
    texts = documents(12, 5, 20)
    packed = pack_documents(texts, window=64, end=END)
    ids, positions = torch.from_numpy(packed.ids), torch.from_numpy(packed.positions)
    with torch.inference_mode():
        together = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        checked = 0
        for row, places in enumerate(packed.positions):
            begins = [*np.flatnonzero(places == 0).tolist(), len(places)]
            for begin, after in itertools.pairwise(begins):
                alone = model(input_ids=ids[row : row + 1, begin:after], use_cache=False).logits
                assert torch.allclose(together[row, begin:after], alone[0], atol=1e-5)
                checked += 1
    assert checked >= len(texts)
