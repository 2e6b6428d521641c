"""The compiled form of attention is the same attention."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from ml import attention
from ml.gpt import ARCHITECTURES, new_gpt

LENGTHS = (1, 128, 300)  # a single token, one whole block, two blocks and a part


def slopes(function: object, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the output (B, T, H, D) and the three gradients."""
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    out, _ = function(nn.Module(), *leaves, None, scaling=0.3)  # type: ignore[operator]
    (out * torch.arange(out.numel()).view(out.shape).cos()).sum().backward()
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@pytest.mark.parametrize("length", LENGTHS)
def test_compiled_form_gives_the_library_s_values_and_gradients(length: int) -> None:
    torch.manual_seed(length)
    tensors = [torch.randn(2, 3, length, 8) for _ in range(3)]
    torch.compiler.reset()
    plain = slopes(attention.attend, tensors)
    # The aot_eager backend traces like inductor and runs without a compiler.
    compiled = slopes(torch.compile(attention.attend, backend="aot_eager"), tensors)
    assert len(plain) == len(compiled) == 4
    for one, other in zip(plain, compiled, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_no_gradient_comes_from_later_positions() -> None:
    torch.compiler.reset()
    query, key, value = (torch.randn(1, 1, 200, 4, requires_grad=True) for _ in range(3))
    form = torch.compile(attention.attend, backend="aot_eager")
    out, _ = form(nn.Module(), query, key, value, None)
    out[0, 150].sum().backward()
    assert value.grad is not None
    assert value.grad[0, 0, 150].any()
    assert not value.grad[0, 0, 151:].any()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiled_model_has_the_loss_and_gradients_of_the_library_s_own(architecture: str) -> None:
    shape = {"vocabulary": 50, "context": 400, "width": 16, "layers": 2, "heads": 2}
    config = ARCHITECTURES[architecture](**shape)
    ours = new_gpt(config, seed=0)
    assert ours.model.config._attn_implementation == attention.NAME
    library = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    library.load_state_dict(ours.model.state_dict())
    ids = torch.randint(50, (2, 400))
    torch.compiler.reset()
    none, loss = torch.compile(ours, backend="aot_eager")(ids, ids)
    assert none.numel() == 0  # the logits are never whole in memory
    logits = library(ids).logits.flatten(0, 1)
    expected = nn.functional.cross_entropy(logits, ids.flatten())
    assert torch.allclose(loss, expected, atol=1e-5)
    (loss * 3).backward()
    (expected * 3).backward()
    wanted = dict(library.named_parameters())
    for name, parameter in ours.model.named_parameters():
        ours_slope, slope = parameter.grad, wanted[name].grad
        assert ours_slope is not None
        assert slope is not None
        assert torch.allclose(ours_slope, slope, atol=1e-4), name
