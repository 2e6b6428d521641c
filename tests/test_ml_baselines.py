"""The small models: no token sees a later one, all learn, a window is a window."""

from typing import Any

import pytest
import torch
from torch import nn

from ml.baselines import Recurrent, build
from ml.dataset import Mixture, Stage, pack
from ml.training import TrainingConfig, train
from tests import toy

VOCABULARY = 30
SHAPES: list[tuple[str, dict[str, Any]]] = [
    ("recurrent", {"cell": "rnn", "embedding": 8, "hidden": 12}),
    ("recurrent", {"cell": "gru", "embedding": 8, "hidden": 12, "layers": 2, "head": 3}),
    ("recurrent", {"cell": "lstm", "embedding": 8, "hidden": 12, "layers": 2, "tied": True}),
    ("linear", {"window": 3, "embedding": 8, "hidden": 12, "layers": 2}),
]
each_shape = pytest.mark.parametrize(("family", "shape"), SHAPES)


@each_shape
def test_no_token_sees_a_later_one(family: str, shape: dict[str, Any]) -> None:
    model = build(family, VOCABULARY, seed=1, **shape).eval()
    ids = torch.arange(10)[None] % VOCABULARY
    changed = ids.clone()
    changed[0, 6] = 29
    before, after = model(ids)[0], model(changed)[0]
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6], after[:, 6])


@each_shape
def test_last_token_is_seen(family: str, shape: dict[str, Any]) -> None:
    # The seed's pooled models hardly saw it, which is why they stayed at the unigram's entropy.
    model = build(family, VOCABULARY, seed=1, **shape).eval()
    logits = [model(torch.tensor([[1, 2, 3, last]]))[0][0, -1] for last in (4, 5)]
    assert (logits[0] - logits[1]).abs().max() > 1e-4


def test_linear_model_sees_its_window_and_no_further() -> None:
    model = build("linear", VOCABULARY, seed=1, window=3, embedding=8, hidden=12).eval()
    first, second, third = (
        model(torch.tensor([row]))[0][0, -1] for row in ([9, 2, 3, 4], [8, 2, 3, 4], [9, 7, 3, 4])
    )
    assert torch.equal(first, second)
    assert not torch.allclose(first, third)


@each_shape
def test_loss_is_the_mean_cross_entropy_of_the_logits(family: str, shape: dict[str, Any]) -> None:
    model = build(family, VOCABULARY, seed=1, **shape).eval()
    ids, targets = torch.randint(VOCABULARY, (2, 3, 7)).unbind()
    logits, loss = model(ids, targets)
    assert logits.shape == (3, 7, VOCABULARY)
    chosen = logits.double().log_softmax(-1).gather(-1, targets[..., None])
    assert loss.item() == pytest.approx(-chosen.mean().item(), rel=1e-5)
    assert model(ids)[1] is None


@each_shape
def test_same_seed_gives_the_same_model(family: str, shape: dict[str, Any]) -> None:
    weights = [build(family, VOCABULARY, seed=seed, **shape).state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_tied_model_predicts_with_its_embedding() -> None:
    model = build("recurrent", VOCABULARY, seed=1, cell="gru", embedding=8, hidden=12, tied=True)
    assert isinstance(model, Recurrent)
    assert model.predict.weight is model.embed.weight


@each_shape
def test_model_learns_by_the_one_loop(family: str, shape: dict[str, Any], tmp_path: Any) -> None:
    tokenizer = toy.toy_tokenizer()
    model = build(family, len(tokenizer), seed=1, **shape)
    mixture = Mixture(
        {"all": pack([toy.EVENING, toy.ROAD], tokenizer)},
        [Stage(1.0, {"all": 1.0})],
        steps=60,
        batch=4,
        length=16,
        seed=2,
    )
    config = TrainingConfig(
        steps=60,
        batch=4,
        length=16,
        seed=3,
        adam_rate=0.02,
        weight_decay=0.0,
        warmup=0.1,
        decay=0.4,
        clip=1.0,
        validate_every=30,
        precision="fp32",
        compile=False,
    )
    losses: list[float] = []
    stream = torch.from_numpy(pack([toy.LETTER], tokenizer).astype("int64"))
    ids, targets = stream[None, :64], stream[None, 1:65]

    def validate(module: nn.Module) -> float:
        with torch.no_grad():
            losses.append(module.eval()(ids, targets)[1].item())
        return losses[-1]

    before = validate(model)
    assert train(model, mixture, config, tmp_path, validate) < before - 1
