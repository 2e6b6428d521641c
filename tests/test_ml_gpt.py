"""The GPT in both architectures: its size, its compute, its way to the disk and back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ml.checkpoint import export
from ml.gpt import ARCHITECTURES, CausalLM, flops_per_token, load_gpt, new_gpt
from tests import toy

VOCABULARY, CONTEXT, LAYERS = 50, 16, 2
each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def make(architecture: str, *, width: int = 32, layers: int = LAYERS, seed: int = 0) -> CausalLM:
    config: Any = ARCHITECTURES[architecture](
        vocabulary=VOCABULARY, context=CONTEXT, width=width, layers=layers, heads=2
    )
    return new_gpt(config, seed)


def test_flops_of_gpt2_equal_the_count_by_hand() -> None:
    # Width 8: queries, keys and values 8 x 24, projection 8 x 8, two maps of 8 x 32.
    block = 8 * 24 + 8 * 8 + 2 * 8 * 32
    matrices = LAYERS * block + 50 * 8  # the places' embedding does not multiply
    attention = 6 * LAYERS * CONTEXT * 8
    assert flops_per_token(make("gpt2", width=8), CONTEXT) == 6 * matrices + attention == 13152


def test_flops_of_llama_equal_the_count_by_hand() -> None:
    # Width 32: four maps of 32 x 32, three of 32 x 96.
    block = 4 * 32 * 32 + 3 * 32 * 96
    matrices = LAYERS * block + 50 * 32
    attention = 6 * LAYERS * CONTEXT * 32
    assert flops_per_token(make("llama"), CONTEXT) == 6 * matrices + attention == 175488


@each_architecture
def test_flops_are_those_that_torch_counts(architecture: str) -> None:
    model = make(architecture)
    ids = torch.arange(CONTEXT)[None]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        _, loss = model(ids, ids)
        loss.backward()
    # Torch multiplies with the masked half of the attention too.
    masked = 6.0 * LAYERS * CONTEXT * 32
    counted = counter.get_total_flops() / CONTEXT
    assert flops_per_token(model, CONTEXT) + masked == pytest.approx(counted, rel=0.02)


def test_layer_of_llama_is_about_as_large_as_one_of_gpt2() -> None:
    def layer(architecture: str) -> int:
        sizes = [
            sum(p.numel() for p in make(architecture, width=192, layers=n).parameters())
            for n in (1, 2)
        ]
        return sizes[1] - sizes[0]

    assert layer("llama") == pytest.approx(layer("gpt2"), rel=0.03)


@each_architecture
def test_no_token_sees_a_later_one(architecture: str) -> None:
    model = make(architecture).eval()
    ids = torch.arange(10)[None]
    changed = ids.clone()
    changed[0, 6] = 49
    before, after = model(ids)[0], model(changed)[0]
    assert before.shape == (1, 10, VOCABULARY)
    assert torch.allclose(before[:, :6], after[:, :6], atol=1e-6)
    assert not torch.allclose(before[:, 6:], after[:, 6:], atol=1e-6)


@each_architecture
def test_loss_is_the_mean_cross_entropy_of_the_logits(architecture: str) -> None:
    model = make(architecture).eval()
    ids, targets = torch.randint(VOCABULARY, (2, 3, 7)).unbind()
    logits, loss = model(ids, targets)
    expected = functional.cross_entropy(logits.double().flatten(0, 1), targets.flatten())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert model(ids)[1] is None


@each_architecture
def test_same_seed_gives_the_same_model(architecture: str) -> None:
    first, same, other = (make(architecture, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@each_architecture
def test_loaded_model_is_the_exported_one_in_fp32(architecture: str, tmp_path: Path) -> None:
    model = make(architecture)
    export(model, toy.toy_tokenizer(), {"name": "toy"}, tmp_path)
    loaded = load_gpt(tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    weights = loaded.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(weights[name], tensor.float()), name
    # Not the exported object itself: bfloat16() rounds Llama's rotary frequencies too.
    fresh = make(architecture, seed=1)
    fresh.load_state_dict(model.state_dict())
    ids = torch.arange(10)[None]
    assert torch.equal(loaded.eval()(ids)[0], fresh.eval()(ids)[0])
