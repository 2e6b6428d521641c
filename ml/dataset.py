"""From documents to training batches: a stream of tokens cut into chunks, drawn by a mixture.

Shapes: N tokens in a stream, T tokens in a chunk, B chunks in a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ml.corpus import CorpusError


class Encoder(Protocol):
    """The part of a tokenizer that packing needs."""

    eos_token_id: int

    def encode(self, text: str) -> list[int]: ...


def pack(documents: Sequence[str], tokenizer: Encoder) -> NDArray[np.uint16]:
    """Return one stream (N,): each document's tokens and an end-of-text token behind it."""
    parts: list[int] = []
    for document in documents:
        parts.extend(tokenizer.encode(document))
        parts.append(tokenizer.eos_token_id)
    assert max(parts) < 2**16, f"token {max(parts)} does not fit 16 bits"
    return np.array(parts, dtype=np.uint16)


@dataclass(frozen=True)
class Stage:
    """A part of the training: until ``end`` (share of all steps) draw groups by ``weights``."""

    end: float
    weights: dict[str, float]


class Mixture:
    """Batches from groups of text, the proportions changing by stage.

    Within a group chunks come in a shuffled order without repeats until the group is used up,
    and each pass starts the chunks at another offset. The draws depend on the seed alone, so a
    resumed run replays them with ``skip``. Raises CorpusError for a group of under two chunks.
    """

    def __init__(
        self,
        streams: dict[str, NDArray[np.uint16]],
        stages: Sequence[Stage],
        *,
        steps: int,
        batch: int,
        length: int,
        seed: int,
    ) -> None:
        short = [name for name, stream in streams.items() if len(stream) < 2 * length + 2]
        if short:
            names = ", ".join(short)
            raise CorpusError(f"too little text for chunks of {length} tokens: {names}")
        assert stages[-1].end >= 1.0, f"the last stage ends at {stages[-1].end}"
        self._streams, self._stages, self._steps = streams, stages, steps
        self._batch, self._length = batch, length
        self._random = np.random.default_rng(seed)
        self._starts: dict[str, list[int]] = {name: [] for name in streams}
        self.step = 0

    def next(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return inputs (B, T) and targets (B, T), the inputs shifted by one token."""
        weights = next(s.weights for s in self._stages if self.step < s.end * self._steps)
        names = list(weights)
        shares = np.array([weights[name] for name in names])
        drawn = self._random.choice(names, size=self._batch, p=shares / shares.sum())
        rows = np.stack([self._chunk(str(name)) for name in drawn]).astype(np.int64)
        self.step += 1
        return rows[:, :-1], rows[:, 1:]

    def skip(self, steps: int) -> None:
        """Replay the draws of ``steps`` batches, for a run that resumes."""
        for _ in range(steps):
            self.next()

    def _chunk(self, name: str) -> NDArray[np.uint16]:
        stream, length = self._streams[name], self._length
        if not self._starts[name]:
            offset = int(self._random.integers(length))
            starts = np.arange(offset, len(stream) - length, length)
            self._starts[name] = self._random.permutation(starts).tolist()
        start = self._starts[name].pop()
        return stream[start : start + length + 1]
