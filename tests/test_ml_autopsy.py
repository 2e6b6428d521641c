"""The first random search's two faults at toy size: a blind pooling and a metric upside down."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ml.autopsy import AutopsyConfig, Pooled, Sound, cut, dissect, measure
from scripts import autopsy
from tests import toy

VOCABULARY = 24
CONFIG = AutopsyConfig(
    width=24, length=96, batch=6, steps=60, measure_every=15, chunks=24, rate=0.02, seed=3
)


def chain(seed: int, length: int) -> NDArray[np.uint16]:
    """Draw tokens each of which has three likely followers, whatever came before it."""
    followers = np.random.default_rng(0).integers(0, VOCABULARY, (VOCABULARY, 3))
    random = np.random.default_rng(seed)
    which = random.integers(3, size=length)
    astray = np.where(random.random(length) < 0.1, random.integers(VOCABULARY, size=length), -1)
    stream, token = [], 0
    for place in range(length):
        token = int(astray[place] if astray[place] >= 0 else followers[token, which[place]])
        stream.append(token)
    return np.array(stream, np.uint16)


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return dissect(chain(1, 20_000), chain(2, 2_400), VOCABULARY, CONFIG)


def test_pooled_model_stays_at_the_unigram_and_the_sound_one_does_not(
    figures: dict[str, Any],
) -> None:
    end = {name: curve[-1] for name, curve in figures["curves"].items()}
    assert end["pooled"]["cross_entropy"] == pytest.approx(figures["unigram"], abs=0.08)
    assert end["sound"]["cross_entropy"] < figures["unigram"] - 1
    # It did learn all that it can see: the fault is the pooling, not the time.
    start = figures["curves"]["pooled"][0]["cross_entropy"]
    assert start > figures["unigram"] + 0.2


def test_metric_rises_while_the_sound_model_improves(figures: dict[str, Any]) -> None:
    middle, end = figures["curves"]["sound"][1], figures["curves"]["sound"][-1]
    assert end["perplexity"] < 0.8 * middle["perplexity"]
    assert end["seed_metric"] > 1.5 * middle["seed_metric"]
    assert end["seed_metric"] > VOCABULARY > end["perplexity"]
    assert end["step"] == CONFIG.steps


def test_perplexity_is_that_of_all_tokens(figures: dict[str, Any]) -> None:
    for point in (point for curve in figures["curves"].values() for point in curve):
        assert point["perplexity"] == pytest.approx(math.exp(point["cross_entropy"]))
    assert figures["held_out_tokens"] == CONFIG.chunks * CONFIG.length


def test_metric_of_an_exact_unigram_is_the_vocabulary() -> None:
    # 1/2, 1/4, 1/8, 1/8: the mean of 1/p is 4, perplexity 2^1.75.
    probabilities = torch.tensor([1 / 2] * 4 + [1 / 4] * 2 + [1 / 8] * 2)
    figures = measure(-probabilities.log())
    assert figures["seed_metric"] == pytest.approx(4)
    assert figures["perplexity"] == pytest.approx(2**1.75)


def test_metric_prefers_a_uniform_model_to_a_better_one() -> None:
    # Sharp on three of four tokens and surprised once: less loss, more "perplexity".
    uniform = measure(torch.full((4,), math.log(4)))
    sharper = measure(-torch.tensor([0.9, 0.9, 0.9, 0.02]).log())
    assert sharper["cross_entropy"] < uniform["cross_entropy"]
    assert sharper["seed_metric"] > uniform["seed_metric"] == pytest.approx(4)


def test_pooling_equals_a_softmax_over_every_prefix() -> None:
    torch.manual_seed(0)
    model = Pooled(vocabulary=7, width=5)
    ids = torch.randint(7, (2, 12))
    logits, loss = model(ids)
    assert loss is None
    states, _ = model.recurrent(model.embedding(ids))
    scores, _ = model.scorer(states)
    for place in range(12):
        weights = scores[:, : place + 1, 0].softmax(-1)
        pooled = (weights[..., None] * states[:, : place + 1]).sum(1)
        torch.testing.assert_close(logits[:, place], model.head(pooled))


@pytest.mark.parametrize("kind", [Pooled, Sound])
def test_models_see_no_later_token(kind: type[Sound]) -> None:
    torch.manual_seed(0)
    model = kind(7, 5)
    ids = torch.randint(7, (2, 12))
    changed = torch.cat([ids[:, :8], (ids[:, 8:] + 1) % 7], dim=1)
    logits, loss = model(ids, changed)
    torch.testing.assert_close(logits[:, :8], model(changed)[0][:, :8])
    assert loss.item() == pytest.approx(
        torch.nn.functional.cross_entropy(logits.view(-1, 7), changed.view(-1)).item()
    )


def test_chunks_cover_the_stream_once() -> None:
    ids, targets = cut(np.arange(12, dtype=np.uint16), length=4, chunks=5)
    assert ids.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert targets.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert len(cut(np.arange(12, dtype=np.uint16), length=4, chunks=1)[0]) == 1


def test_program_writes_figures_and_their_origin(tmp_path: Path) -> None:
    corpus = toy.write_corpus(tmp_path / "corpus")
    split = toy.write_json(tmp_path / "split.json", toy.SPLIT)
    out = tmp_path / "autopsy.json"
    small = ["--author", "belov", "--split", str(split), "--length", "16", "--steps", "2"]
    autopsy.main([str(corpus), *small, "--vocabulary", "300", "--out", str(out)])
    result = json.loads(out.read_text("utf-8"))
    assert result["vocabulary"] == 300
    assert [point["step"] for point in result["curves"]["pooled"]] == [0, 2]
    assert result["curves"].keys() == {"pooled", "sound"}
    assert "--steps 2" in result["command"]
    assert result["seed"] == result["config"]["seed"]
    with pytest.raises(SystemExit, match="no prose of nobody for train"):
        autopsy.main([str(corpus), "--author", "nobody", "--split", str(split)])
    with pytest.raises(SystemExit, match=r"SOURCES\.tsv"):
        autopsy.main([str(tmp_path / "missing")])
