"""The real training loop at toy size: it learns, and an interrupted run is like an unbroken one."""

import json
import os
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ml import training
from ml.baselines import build
from ml.dataset import Mixture, Stage, pack
from ml.gpt import llama_config, new_gpt
from ml.training import TrainingConfig, make_optimizers, rate_factor, thin, train
from tests import toy

CONFIG = TrainingConfig(
    steps=10,
    batch=4,
    length=16,
    seed=5,
    muon_rate=0.02,
    adam_rate=0.02,
    weight_decay=0.1,
    warmup=0.2,
    decay=0.4,
    clip=1.0,
    validate_every=3,
    precision="fp32",
    compile=False,
)


class InterruptedRunError(Exception):
    """What stops a run in these tests."""


def run(
    folder: Path,
    config: TrainingConfig = CONFIG,
    *,
    stop_at: int | None = None,
    figures: dict[int, float] | None = None,
) -> tuple[float, dict[str, torch.Tensor]]:
    """Train a fresh toy model; return the best figure and the weights.

    The figure of a validation falls with the steps, unless ``figures`` gives others by step;
    ``stop_at`` names the validation of this call, from 1, that raises instead.
    """
    tokenizer = toy.toy_tokenizer()
    streams = {
        "own": pack([toy.EVENING, toy.LETTER], tokenizer),
        "others": pack([toy.ROAD], tokenizer),
    }
    stages = [Stage(0.5, {"own": 1.0, "others": 1.0}), Stage(1.0, {"own": 1.0})]
    mixture = Mixture(
        streams,
        stages,
        steps=config.steps,
        batch=config.batch,
        length=config.length,
        seed=config.seed,
    )
    model = toy.toy_model(len(tokenizer), seed=config.seed)
    validations = count(1)

    def validate(module: nn.Module) -> float:
        module.eval()  # as a real one does
        assert (module is model) == (config.average == 0)
        if next(validations) == stop_at:
            raise InterruptedRunError
        step = 1 + len(metrics(folder))  # the line of this step comes after its validation
        return 100.0 - step if figures is None else figures[step]

    figure = train(model, mixture, config, folder, validate)
    return figure, model.state_dict()


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


def course(folder: Path) -> list[tuple[int, float, float]]:
    """The part of the metrics that no clock can change."""
    return [(line["step"], line["loss"], line["factor"]) for line in metrics(folder)]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """The folder of a run that nothing stopped, and its weights."""
    folder = tmp_path_factory.mktemp("unbroken")
    _, weights = run(folder)
    return folder, weights


def test_loss_falls(tmp_path: Path) -> None:
    run(tmp_path, replace(CONFIG, steps=60, validate_every=60))
    losses = [loss for _, loss, _ in course(tmp_path)]
    assert losses[0] == pytest.approx(5.70, abs=0.1)  # ln 300: the model knows nothing yet
    assert sum(losses[-5:]) / 5 < losses[0] - 1.5


def test_metrics_have_a_line_a_step_and_a_figure_a_validation(
    unbroken: tuple[Path, dict[str, torch.Tensor]],
) -> None:
    lines = metrics(unbroken[0])
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert [line["factor"] for line in lines] == [rate_factor(i, CONFIG) for i in range(10)]
    figures = {line["step"]: line["validation"] for line in lines if "validation" in line}
    assert figures == {3: 97.0, 6: 94.0, 9: 91.0, 10: 90.0}
    assert all(a["seconds"] <= b["seconds"] for a, b in pairwise(lines))


def test_best_figure_is_returned_and_its_weights_are_left_in_the_model(tmp_path: Path) -> None:
    figure, weights = run(tmp_path / "worse", figures={3: 2.0, 6: 1.0, 9: 1.5, 10: 3.0})
    assert figure == 1.0
    config = replace(CONFIG, validate_every=2)
    best_at_6 = {2: 2.0, 4: 2.0, 6: 1.0, 8: 2.0, 10: 2.0}
    _, others = run(tmp_path / "other", config, figures=best_at_6)
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    _, last = run(tmp_path / "last")
    assert not all(torch.equal(weights[name], last[name]) for name in weights)


def test_best_figure_survives_an_interruption(tmp_path: Path) -> None:
    figures = {3: 1.0, 6: 2.0, 9: 1.5, 10: 3.0}
    _, unbroken_weights = run(tmp_path / "unbroken", figures=figures)
    with pytest.raises(InterruptedRunError):
        run(tmp_path / "broken", figures=figures, stop_at=3)
    figure, weights = run(tmp_path / "broken", figures=figures)
    assert figure == 1.0
    assert all(torch.equal(weights[name], unbroken_weights[name]) for name in weights)


@pytest.mark.parametrize("stop_at", [2, 4])
def test_averaged_weights_survive_an_interruption(stop_at: int, tmp_path: Path) -> None:
    config = replace(CONFIG, average=0.9)
    _, unbroken_weights = run(tmp_path / "unbroken", config)
    with pytest.raises(InterruptedRunError):
        run(tmp_path / "broken", config, stop_at=stop_at)
    _, weights = run(tmp_path / "broken", config)
    assert all(torch.equal(weights[name], unbroken_weights[name]) for name in weights)
    _, plain = run(tmp_path / "plain")
    assert not torch.equal(weights["model.lm_head.weight"], plain["model.lm_head.weight"])


def test_dropout_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    tokenizer = toy.toy_tokenizer()
    stream = pack([toy.EVENING, toy.LETTER], tokenizer)
    config = replace(CONFIG, muon_rate=None)

    def losses(folder: Path, stop: bool) -> list[float]:
        model = build(
            "recurrent", len(tokenizer), seed=1, cell="gru", embedding=8, hidden=8, dropout=0.5
        )
        mixture = Mixture(
            {"all": stream}, [Stage(1.0, {"all": 1.0})], steps=10, batch=4, length=16, seed=5
        )
        validations = count(1)

        def validate(_: nn.Module) -> float:
            if stop and next(validations) == 3:
                raise InterruptedRunError
            return 1.0

        if stop:
            with pytest.raises(InterruptedRunError):
                train(model, mixture, config, folder, validate)
            return losses(folder, False)
        train(model, mixture, config, folder, validate)
        return [line["loss"] for line in metrics(folder)]

    assert losses(tmp_path / "broken", True) == losses(tmp_path / "unbroken", False)


def test_samples_are_kept_with_the_validations(tmp_path: Path) -> None:
    tokenizer = toy.toy_tokenizer()
    mixture = Mixture(
        {"all": pack([toy.EVENING], tokenizer)},
        [Stage(1.0, {"all": 1.0})],
        steps=4,
        batch=2,
        length=16,
        seed=5,
    )
    config = replace(CONFIG, steps=4, validate_every=2)
    names = count(1)
    model = toy.toy_model(len(tokenizer))
    train(model, mixture, config, tmp_path, lambda _: 1.0, sample=lambda _: f"№ {next(names)}")
    assert [line.get("sample") for line in metrics(tmp_path)] == [None, "№ 1", None, "№ 2"]
    curve = thin(tmp_path / "metrics.jsonl")
    losses = [line["loss"] for line in metrics(tmp_path)]
    assert [line["loss"] for line in curve] == [
        pytest.approx((losses[0] + losses[1]) / 2),
        pytest.approx((losses[2] + losses[3]) / 2),
    ]


@pytest.mark.parametrize("stop_at", [1, 2, 3, 4])
def test_interrupted_run_goes_on_as_if_it_had_not_stopped(
    stop_at: int, tmp_path: Path, unbroken: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    with pytest.raises(InterruptedRunError):
        run(tmp_path, stop_at=stop_at)
    assert len(metrics(tmp_path)) == min(3 * stop_at, 10) - 1  # past the checkpoint
    _, weights = run(tmp_path)
    assert course(tmp_path) == course(unbroken[0])
    assert all(torch.equal(weights[name], tensor) for name, tensor in unbroken[1].items())


def test_metrics_of_a_run_that_left_no_checkpoint_are_dropped(
    tmp_path: Path, unbroken: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 9.9, "fac', "utf-8")
    run(tmp_path)
    assert course(tmp_path) == course(unbroken[0])


@pytest.mark.parametrize("moment", ["before", "after"])
def test_run_killed_around_a_checkpoint_loses_no_line(
    moment: str,
    tmp_path: Path,
    unbroken: tuple[Path, dict[str, torch.Tensor]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The process dies as the second checkpoint takes the place of the first.
    replacing = os.replace
    checkpoints = count(1)

    def killed(source: Path, target: Path) -> None:
        if target.name != "checkpoint.pt":
            replacing(source, target)
            return
        if (second := next(checkpoints) == 2) and moment == "before":
            raise InterruptedRunError
        replacing(source, target)
        if second:
            raise InterruptedRunError

    with monkeypatch.context() as patch:
        patch.setattr(training.os, "replace", killed)
        with pytest.raises(InterruptedRunError):
            run(tmp_path)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == {"before": 3, "after": 6}[moment]
    run(tmp_path)
    assert course(tmp_path) == course(unbroken[0])


def test_finished_run_called_again_changes_nothing_and_returns_its_figure(tmp_path: Path) -> None:
    first, weights = run(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    again, same = run(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert again == first


def test_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        run(tmp_path, stop_at=2)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(AssertionError, match=r"checkpoint\.pt belongs to another run"):
        run(tmp_path, replace(CONFIG, muon_rate=0.03))
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_same_seed_gives_the_same_run_and_another_does_not(
    tmp_path: Path, unbroken: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    run(tmp_path / "same")
    run(tmp_path / "other", replace(CONFIG, seed=6))
    assert course(tmp_path / "same") == course(unbroken[0])
    assert course(tmp_path / "other") != course(unbroken[0])


def test_bf16_run_stays_near_the_fp32_one(
    tmp_path: Path, unbroken: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    _, weights = run(tmp_path, replace(CONFIG, precision="bf16"))
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}  # only autocast
    losses, expected = ([loss for _, loss, _ in course(f)] for f in (tmp_path, unbroken[0]))
    assert losses != expected
    assert losses == pytest.approx(expected, abs=0.1)


def test_rate_rises_stays_and_falls_nearly_to_zero() -> None:
    config = replace(CONFIG, steps=1000, warmup=0.02, decay=0.4)
    factors = [rate_factor(step, config) for step in range(1000)]
    assert all(0 < factor <= 1 for factor in factors)
    assert all(a < b for a, b in pairwise(factors[:20]))
    assert factors[19:601] == [1.0] * 582
    assert all(a > b for a, b in pairwise(factors[600:]))
    assert factors[-1] == pytest.approx(1 / 400)


def test_rate_may_do_without_warmup_and_decay() -> None:
    config = replace(CONFIG, warmup=0.0, decay=0.0)
    assert [rate_factor(step, config) for step in range(10)] == [1.0] * 10


def test_muon_gets_the_matrices_of_the_blocks_and_nothing_else() -> None:
    model = toy.toy_model(50)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    muon, adam = (
        {names[id(p)] for group in optimizer.param_groups for p in group["params"]}
        for optimizer in make_optimizers(model, CONFIG)
    )
    matrices = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert muon == {
        f"model.transformer.h.{layer}.{matrix}.weight" for layer in (0, 1) for matrix in matrices
    }
    assert muon | adam == set(names.values())
    assert muon & adam == set()
    assert {"model.transformer.wte.weight", "model.transformer.wpe.weight"} <= adam


def test_frozen_parameters_are_left_to_no_optimizer() -> None:
    model = toy.toy_model(50)
    model.model.get_input_embeddings().requires_grad_(False)
    inside = {
        id(p)
        for optimizer in make_optimizers(model, CONFIG)
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert inside == {id(p) for p in model.parameters() if p.requires_grad}


def test_rates_reach_their_optimizers(tmp_path: Path) -> None:
    # A step without a rate moves nothing: each rate moves its own parameters only.
    start = toy.toy_model(300, seed=CONFIG.seed).state_dict()
    config = replace(CONFIG, steps=2, validate_every=2)
    for rate, moved in (("muon_rate", "mlp.c_fc.weight"), ("adam_rate", "wpe.weight")):
        rates: dict[str, Any] = {"muon_rate": 0.0, "adam_rate": 0.0, rate: 0.02}
        _, weights = run(tmp_path / rate, replace(config, **rates))
        changed = {name for name in start if not torch.equal(start[name], weights[name])}
        assert any(name.endswith(moved) for name in changed)
        matrices = {name for name in start if ".h." in name and start[name].ndim == 2}
        assert changed <= (matrices if rate == "muon_rate" else set(start) - matrices)


def test_without_a_rate_for_muon_everything_is_adams() -> None:
    model = toy.toy_model(50)
    (adam,) = make_optimizers(model, replace(CONFIG, muon_rate=None))
    decayed, plain = adam.param_groups
    assert {p.ndim for p in decayed["params"]} == {2}
    assert {p.ndim for p in plain["params"]} == {1}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (CONFIG.weight_decay, 0.0)
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))


def test_muon_finds_the_matrices_of_llama_too() -> None:
    model = new_gpt(llama_config(vocabulary=50, context=16, width=16, layers=2, heads=2), seed=0)
    muon, _ = make_optimizers(model, CONFIG)
    assert sum(len(group["params"]) for group in muon.param_groups) == 2 * 7
