"""N-gram models: the floor that every trained network has to beat.

model = NGram(order=3, vocabulary=8192, smoothing="kneser-ney").fit(pack(documents, tokenizer))
bits_per_character(model, tokenizer, held_out, context=512)

Both smoothings, interpolated as in Chen & Goodman (1998), "An Empirical Study of Smoothing
Techniques for Language Modeling", Harvard TR-10-98, are one recursion, from the uniform
distribution up to the longest context h, h' being h without its first token:

    p(w | h) = gain(h, w) + rest(h) p(w | h'),      an unseen h: p(w | h) = p(w | h')

Witten-Bell      gain = c(hw) / (c(h) + t(h)),      rest = t(h) / (c(h) + t(h)),
                 c counts, t(h) is how many different tokens follow h
modified         gain = (c(hw) - D(c(hw))) / c(h),  rest = sum of the D taken / c(h),
Kneser-Ney       D is one of three discounts, for counts of 1, 2 and more; below the longest
                 order c(g) is the number of different tokens seen before g

A document begins and ends with token 0. A context stops at the 0 that begins its document, so
there it is shorter; no token is seen before that 0, so n-grams that begin with it keep counts.

Shapes: B sequences, T tokens, V vocabulary, P = B T positions, K n-grams of one order, H contexts.
"""

import itertools
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Smoothing = Literal["witten-bell", "kneser-ney"]
Ids = NDArray[np.int64]
Places = NDArray[np.int32]


@dataclass(frozen=True)
class Level:
    """All n-grams of one order, sorted; an n-gram's place is its number as a longer one's context.

    ``keys`` (K,) are the context's number x V + the next token; ``starts`` (H + 1,) the first
    place of each context. ``gain`` (K,) and ``rest`` (H,) are the recursion's.
    """

    keys: Ids
    starts: Ids
    gain: NDArray[np.float32]
    rest: NDArray[np.float32]

    def find(self, contexts: Ids, tokens: Ids, vocabulary: int) -> Ids:
        """Return the places (P,) of the n-grams, -1 for those never seen."""
        wanted = contexts * vocabulary + tokens
        places = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where((contexts >= 0) & (self.keys[places] == wanted), places, -1)


class NGram(nn.Module):
    """An n-gram model of order 1 to 5 behind the models' one signature; ``fit`` it first."""

    def __init__(self, order: int, vocabulary: int, smoothing: Smoothing = "witten-bell") -> None:
        super().__init__()
        assert 1 <= order <= 5, f"order {order}"
        assert smoothing in get_args(Smoothing), f"smoothing {smoothing!r}"
        self.order, self.vocabulary, self.smoothing = order, vocabulary, smoothing
        self.levels: list[Level] = []

    def fit(self, stream: NDArray[np.uint16]) -> Self:
        """Count the packed ``stream`` (N,) of ``dataset.pack`` and estimate every order.

        At its peak 60 bytes of memory a token for order 3, 110 for order 5; a third of it stays.
        """
        assert len(stream), "an empty stream"
        assert stream.max() < self.vocabulary, f"token {stream.max()} of {self.vocabulary}"
        counted = _count(np.append(np.zeros(1, np.int32), stream), self.order, self.vocabulary)
        if self.smoothing == "kneser-ney":
            # An n-gram that nothing precedes begins a document: it keeps its count.
            for (keys, counts, _), (_, _, tails) in itertools.pairwise(counted):
                before = np.bincount(tails, minlength=len(keys))
                np.copyto(counts, before, where=before > 0)
        self.levels, contexts = [], 1
        for keys, counts, _ in counted:
            self.levels.append(self._estimate(keys, counts, contexts))
            # Contexts of order 2 are single tokens, numbered as such, seen or not.
            contexts = self.vocabulary if len(self.levels) == 1 else len(keys)
        return self

    def entries(self) -> int:
        """Return how many n-grams are stored, which is what an n-gram has for parameters."""
        return sum(len(level.keys) for level in self.levels)

    def save(self, file: Path) -> None:
        """Write the fitted model as one npz, whole or not at all."""
        arrays = {
            f"{field.name}{order}": getattr(level, field.name)
            for order, level in enumerate(self.levels, 1)
            for field in fields(Level)
        }
        temporary = file.with_name(file.name + ".part")
        try:
            with temporary.open("wb") as stream:
                np.savez(stream, vocabulary=self.vocabulary, smoothing=self.smoothing, **arrays)
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what ``save`` wrote."""
        with np.load(file) as arrays:
            order = sum(name.startswith("keys") for name in arrays)
            model = cls(order, int(arrays["vocabulary"]), arrays["smoothing"].item())
            for length in range(1, order + 1):
                names = [field.name for field in fields(Level)]
                model.levels.append(Level(*(arrays[f"{name}{length}"] for name in names)))
        return model

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Map ids (B, T) to log-probabilities (B, T, V) and, given targets (B, T), the mean loss.

        The loss is in nats. ``score`` gives the same for the targets alone, without the V.
        """
        contexts = self._contexts(ids.cpu().numpy())
        weight = np.ones(ids.numel(), np.float32)  # what the orders above have left
        added = []
        for level, rows in zip(self.levels[:0:-1], contexts[:0:-1], strict=True):
            known = np.flatnonzero(rows >= 0)
            first = level.starts[rows[known]]
            lengths = level.starts[rows[known] + 1] - first
            skipped = first - (lengths.cumsum() - lengths)
            cells = np.arange(lengths.sum()) + np.repeat(skipped, lengths)
            tokens = level.keys[cells] - np.repeat(rows[known] * self.vocabulary, lengths)
            places = np.repeat(known * self.vocabulary, lengths) + tokens
            added.append((places, level.gain[cells] * np.repeat(weight[known], lengths)))
            weight[known] *= level.rest[rows[known]]
        unigram = np.full(self.vocabulary, self.levels[0].rest[0] / self.vocabulary)
        unigram[self.levels[0].keys] += self.levels[0].gain
        dense = np.multiply.outer(weight, unigram.astype(np.float32))
        flat = dense.reshape(-1)
        for places, gains in added:
            flat[places] += gains  # within one order no place comes twice
        logits = torch.from_numpy(dense).log_().view(*ids.shape, self.vocabulary).to(ids.device)
        if targets is None:
            return logits, None
        return logits, -logits.gather(-1, targets[..., None]).mean()

    def score(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Return the targets' log-probabilities (B, T), in nats; some hundred times faster."""
        wanted = targets.cpu().numpy().reshape(-1)
        probability = np.full(len(wanted), 1 / self.vocabulary)
        for level, rows in zip(self.levels, self._contexts(ids.cpu().numpy()), strict=True):
            found = level.find(rows, wanted, self.vocabulary)
            probability *= np.where(rows >= 0, level.rest[rows], 1)
            probability += np.where(found >= 0, level.gain[found], 0)
        return torch.from_numpy(np.log(probability)).float().view(ids.shape).to(ids.device)

    def _contexts(self, ids: Ids) -> list[Ids]:
        """Return each order's context numbers (P,), -1 where unseen or beyond the beginning."""
        assert self.levels, "an n-gram model must be fitted first"
        numbers = [np.zeros(ids.shape, np.int64), ids]
        for level in self.levels[1:-1]:
            longer = np.full(ids.shape, -1, np.int64)
            # One that ends with 0 may be found, but was no context: rest 1 and nothing gained.
            longer[:, 1:] = level.find(numbers[-1][:, :-1], ids[:, 1:], self.vocabulary)
            numbers.append(longer)
        return [number.reshape(-1) for number in numbers[: self.order]]

    def _estimate(self, keys: Ids, counts: Ids, contexts: int) -> Level:
        starts = np.searchsorted(keys, np.arange(contexts + 1) * self.vocabulary)
        rows = np.repeat(np.arange(contexts), np.diff(starts))
        total = np.bincount(rows, counts, minlength=contexts)
        if self.smoothing == "witten-bell":
            taken, left = np.zeros(4), np.diff(starts)
            total += left
        else:
            taken = _discounts(counts)
            left = np.bincount(rows, taken[np.minimum(counts, 3)], minlength=contexts)
        gain = (counts - taken[np.minimum(counts, 3)]) / total[rows]
        rest = np.divide(left, total, out=np.ones(contexts), where=total > 0)
        return Level(keys, starts, gain.astype(np.float32), rest.astype(np.float32))


def _count(stream: Places, order: int, vocabulary: int) -> list[tuple[Ids, Ids, Places]]:
    """Return keys (K,), counts (K,) and tails (K,) of each order.

    A tail is the place, one order below, of the n-gram without its first token.
    """
    targets = np.arange(1, len(stream), dtype=np.int32)
    contexts = below = stream  # the number of the n-gram that ends here: as a context, as a tail
    counted = []
    for length in range(1, order + 1):
        if length > 2:  # a longer context that ends with 0 would cross into another document
            targets = targets[stream[targets - 1] != 0]
            targets = targets[contexts[targets - 1] >= 0]
        wanted = stream[targets].astype(np.int64)
        if length > 1:
            wanted += contexts[targets - 1].astype(np.int64) * vocabulary
        keys, numbers, counts = _number(wanted)
        tails = np.empty(len(keys), np.int32)
        tails[numbers] = below[targets] if length > 1 else 0
        counted.append((keys, counts, tails))
        below = np.full(len(stream), -1, np.int32)
        below[targets] = numbers
        contexts = below if length > 1 else stream  # contexts of one token are the tokens
    return counted


def _number(values: Ids) -> tuple[Ids, Places, Ids]:
    """Return the distinct values, sorted, each value's place among them, and the counts.

    As ``np.unique`` does, in half its memory.
    """
    order = np.argsort(values)
    ordered = values[order]
    new = np.append(True, ordered[1:] != ordered[:-1])
    places = np.empty(len(values), np.int32)
    places[order] = np.cumsum(new, dtype=np.int32) - 1
    first = np.flatnonzero(new)
    return ordered[first], places, np.diff(first, append=len(values))


def _discounts(counts: Ids) -> NDArray[np.float64]:
    """Return modified Kneser-Ney's discounts of a count of 0 (nothing), 1, 2, 3 and more.

    A text too small to tell (no n-gram seen four times, say) gets 1/2, 1 and 3/2.
    """
    n1, n2, n3, n4 = (int((counts == times).sum()) for times in range(1, 5))
    if min(n1, n2, n3, n4) > 0:
        y = n1 / (n1 + 2 * n2)
        taken = np.array([0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
        if taken[1:].min() > 0:
            return taken
    return np.array([0, 0.5, 1, 1.5])
