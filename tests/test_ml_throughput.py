"""The race against the Trainer at toy size: both sides train, what is counted is counted."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ml import throughput
from ml.dataset import pack
from ml.gpt import gpt_config, new_gpt
from ml.throughput import Setting, Speed, compare
from tests import toy

SETTING = Setting(width=16, layers=1, heads=2, context=16, batch=2)
STEPS = 2


@pytest.fixture(scope="module")
def stream() -> NDArray[np.uint16]:
    return pack([toy.EVENING, toy.ROAD], toy.toy_tokenizer())


def test_both_sides_get_a_speed(stream: NDArray[np.uint16]) -> None:
    speed = compare(SETTING, stream, vocabulary=300, steps=STEPS, rounds=2, compiled=False)
    assert speed.setting == SETTING
    block = 16 * 48 + 48 + 16 * 16 + 16 + 2 * 16 * 64 + 64 + 16 + 2 * 32
    assert speed.parameters == 300 * 16 + 16 * 16 + block + 32
    for figure in (speed.ours, speed.trainer, speed.ratio):
        assert math.isfinite(figure)
        assert figure > 0
    assert speed.ratio == speed.ours / speed.trainer


@pytest.mark.parametrize("side", ["ours", "trainer"])
def test_each_side_trains_and_only_the_steps_after_the_warm_up_count(
    side: str, stream: NDArray[np.uint16]
) -> None:
    config = gpt_config(vocabulary=300, context=16, width=16, layers=1, heads=2)
    model, untouched = new_gpt(config, seed=0), new_gpt(config, seed=0)
    if side == "ours":
        times = throughput._time_ours(model, SETTING, stream, STEPS, 0, compiled=False)
    else:
        times = throughput._time_trainer(model.model, SETTING, stream, STEPS, 0)
    assert len(times) == STEPS
    assert all(seconds > 0 for seconds in times)
    before = untouched.state_dict()
    assert not all(torch.equal(before[name], p) for name, p in model.state_dict().items())


def test_middle_step_of_all_rounds_gives_the_speed(
    stream: NDArray[np.uint16], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, trainer = iter([[1.0, 9.0], [2.0, 3.0]]), iter([[4.0, 4.0], [8.0, 4.0]])
    monkeypatch.setattr(throughput, "_time_ours", lambda *_: next(ours))
    monkeypatch.setattr(throughput, "_time_trainer", lambda *_: next(trainer))
    speed = compare(SETTING, stream, vocabulary=300, steps=STEPS, rounds=2)
    assert speed == Speed(SETTING, speed.parameters, ours=32 / 2.5, trainer=32 / 4.0)
