"""Why the first project's random search failed: its two faults, rebuilt beside a sound model.

python -m scripts.autopsy CORPUS

*The pooling.* All states of the prefix were averaged with weights from a softmax over time of a
score in (-1, 1), and the next token was predicted from that average. No weight can exceed
another by more than e^2, so among t states the last one, which alone knows the last token well,
weighs about 1/t: the model cannot see where it stands and stays at the unigram's entropy.

*The metric.* "Perplexity" was the mean over tokens of exp(loss), that is of 1 / q(w). Under text
that follows p it expects sum_w p(w) / q(w). The uniform model gives V; the unigram, q = p, gives
sum_w p(w) / p(w) = V again, the size of the vocabulary; and so does every exact model that
excludes no token: there is nothing to gain. But a token that a sharper model did not expect costs
1 / q, without bound, so the mean soon rises while the model goes on improving. True perplexity is
exp(total loss / total tokens).

Shapes: B sequences, T tokens, V vocabulary, D width, C chunks.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ml.ngram import NGram

Point = dict[str, float]


@dataclass(frozen=True)
class AutopsyConfig:
    """What both models share."""

    width: int = 64
    length: int = 512  # tokens of a chunk: the longest prefix
    batch: int = 8
    steps: int = 300
    measure_every: int = 25  # steps
    chunks: int = 48  # held-out chunks at most
    rate: float = 5e-3  # of Adam
    seed: int = 1799


class Sound(nn.Module):
    """A GRU that predicts the next token from its last state."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.recurrent = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Map ids (B, T) to logits (B, T, V) and, given targets (B, T), their mean loss in nats."""
        states, _ = self.recurrent(self.embedding(ids))
        logits = self.head(self.summarise(states))
        if targets is None:
            return logits, None
        return logits, functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def summarise(self, states: Tensor) -> Tensor:
        """Return what each prefix is predicted from, (B, T, D) from the states (B, T, D)."""
        return states


class Pooled(Sound):
    """The same GRU predicting from the average of all its states, as the first project did."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__(vocabulary, width)
        self.scorer = nn.RNN(width, 1, nonlinearity="tanh", batch_first=True)

    def summarise(self, states: Tensor) -> Tensor:
        scores, _ = self.scorer(states)
        weights = scores.exp()  # (B, T, 1); the softmax of every prefix at once, by running sums
        return (weights * states).cumsum(1) / weights.cumsum(1)


def measure(nats: Tensor) -> Point:
    """Return the figures of the losses of single tokens, in nats, of any shape."""
    nats = nats.double()
    return {
        "cross_entropy": nats.mean().item(),
        "perplexity": nats.mean().exp().item(),
        "seed_metric": nats.exp().mean().item(),
    }


def cut(stream: NDArray[np.uint16], length: int, chunks: int) -> tuple[Tensor, Tensor]:
    """Return the first ``chunks`` whole chunks of a stream: ids and targets, both (C, T)."""
    count = min(chunks, (len(stream) - 1) // length)
    assert count > 0, f"{len(stream)} tokens make no chunk of {length}"
    tokens = torch.from_numpy(stream[: count * length + 1].astype(np.int64))
    return tokens[:-1].view(count, length), tokens[1:].view(count, length)


def train(
    model: Sound, stream: NDArray[np.uint16], held_out: tuple[Tensor, Tensor], config: AutopsyConfig
) -> list[Point]:
    """Train on random chunks of ``stream`` and return the held-out figures along the way."""
    random = np.random.default_rng(config.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.rate)
    curve = [{"step": 0, **measure(_losses(model, *held_out))}]
    for step in range(1, config.steps + 1):
        for group in optimizer.param_groups:  # falls to a tenth, so that the end is not noise
            group["lr"] = config.rate * (1 - 0.9 * step / config.steps)
        starts = random.integers(len(stream) - config.length, size=config.batch)
        rows = np.stack([stream[start : start + config.length + 1] for start in starts])
        chunk = torch.from_numpy(rows.astype(np.int64))
        _, loss = model(chunk[:, :-1], chunk[:, 1:])
        assert loss is not None
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % config.measure_every == 0 or step == config.steps:
            curve.append({"step": step, **measure(_losses(model, *held_out))})
    return curve


def dissect(
    training: NDArray[np.uint16],
    held_out: NDArray[np.uint16],
    vocabulary: int,
    config: AutopsyConfig,
) -> dict[str, Any]:
    """Train both models on one packed stream, measure on another, and return all figures.

    ``unigram`` is the held-out cross-entropy, in nats a token, of the training text's unigram.
    """
    chunks = cut(held_out, config.length, config.chunks)
    unigram = measure(-NGram(1, vocabulary).fit(training).score(*chunks))
    curves = {}
    for name, kind in (("pooled", Pooled), ("sound", Sound)):
        torch.manual_seed(config.seed)
        curves[name] = train(kind(vocabulary, config.width), training, chunks, config)
    return {
        "vocabulary": vocabulary,
        "held_out_tokens": chunks[1].numel(),
        "unigram": unigram["cross_entropy"],
        "unigram_perplexity": unigram["perplexity"],
        "unigram_seed_metric": unigram["seed_metric"],
        "curves": curves,
    }


@torch.no_grad()
def _losses(model: Sound, ids: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of every token, (C, T), a few chunks at a time."""
    losses = []
    for some, following in zip(ids.split(8), targets.split(8), strict=True):
        logits, _ = model(some)
        losses.append(functional.cross_entropy(logits.mT, following, reduction="none"))
    return torch.cat(losses)
