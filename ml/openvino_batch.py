"""What OpenVINO GenAI writes at once, step by step, and its settings.

    batch = Batch(conversion, slots=8)
    batch.add(Writing([17, 4], settings(Sampling(), seed=1, room=500, end=0)))
    while batch.busy:
        news = batch.step()  # a token for each writing that is under way

A writing that is added takes part in the next step if a slot is free, else it waits; one that is
cancelled takes part in none. Of several with one prompt the first computes it, and the others take
part once it has: they find it in the key-value cache. All of it belongs to one thread.
"""

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml import card
from ml.conversion import Conversion
from ml.decoding import Sampling
from ml.openvino_quiet import openvino, openvino_genai

MODEL = "openvino_model.xml"  # the name the library looks for
# In fp32 between the int8 matrices: as fast as bf16 where the processor has no matrix unit, and
# the same tokens on every machine. A thread that may not move waits for whoever has its core.
_PROPERTIES = {"INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}
_PAGE = 32  # tokens in a page of the library's key-value cache on the CPU
_STEP = 256  # tokens in a step, so that long openings hold up the others, and the event loop, less
_ALMOST_ALL = 0.999999  # the library's largest min_p, which takes less than 1


@dataclass(eq=False)
class Writing:
    """A request under way: its prompt, how to go on. Anyone may set ``cancelled``.

    It is ``begun`` with its first token.
    """

    ids: list[int]
    settings: openvino_genai.GenerationConfig
    cancelled: bool = False
    begun: bool = False
    handle: Any = None


@dataclass(frozen=True)
class News:
    """What a step brought for one writing; ``reason`` ("stop", "length", "error") ends it."""

    writing: Writing
    tokens: list[int]
    reason: str | None = None
    error: str = ""


class Batch:
    """The library's pipeline over a conversion, at most ``slots`` writings at once in it."""

    def __init__(self, conversion: Conversion, slots: int) -> None:
        config = openvino_genai.SchedulerConfig()
        # Memory is bounded by the slots; one more, for what was cancelled and leaves with the step.
        config.num_kv_blocks = (slots + 1) * (-(-conversion.context // _PAGE) + 1)
        config.max_num_batched_tokens = _STEP
        config.dynamic_split_fuse = True  # openings join the steps in which the others go on
        config.enable_prefix_caching = True  # a continued story's beginning may still be there
        chosen = properties(conversion.group)
        if conversion.parameters < card.SMALL:
            chosen |= {"INFERENCE_NUM_THREADS": 1, "sampler_num_threads": 1}
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            conversion.folder, config, "CPU", chosen
        )
        self._slots = slots
        self._waiting: deque[Writing] = deque()
        self._running: list[Writing] = []
        self._names = itertools.count()

    @property
    def busy(self) -> bool:
        return bool(self._running or self._waiting)

    def add(self, writing: Writing) -> None:
        self._waiting.append(writing)

    def warm(self, ids: list[int]) -> None:
        """Write two tokens, so that the first reader does not wait for what the library puts off.

        With ruGPT-3 medium's shape its first steps take a second longer than later ones.
        """
        self.add(Writing(ids, settings(Sampling(max_tokens=2), seed=0, room=2, end=ids[0])))
        while self.busy:
            self.step()

    def step(self) -> list[News]:
        """Write a token of each. Raises RuntimeError if the library cannot go on."""
        refused = self._change_places()
        self._pipeline.step()
        return [*refused, *self._news()]

    def _change_places(self) -> list[News]:
        """Let who was cancelled go, and the next ones in; return whom the library refuses."""
        for writing in self._running:
            if writing.cancelled:
                writing.handle.cancel()
        self._running = [writing for writing in self._running if not writing.cancelled]
        known = {tuple(writing.ids) for writing in self._running if writing.begun}
        computed = {tuple(writing.ids) for writing in self._running} - known
        refused: list[News] = []
        waiting, self._waiting = self._waiting, deque()
        for writing in waiting:
            if writing.cancelled:
                continue
            prompt = tuple(writing.ids)
            if len(self._running) == self._slots or prompt in computed:
                self._waiting.append(writing)
                continue
            ids = openvino.Tensor(np.array([writing.ids], dtype=np.int64))
            try:
                name = next(self._names)
                writing.handle = self._pipeline.add_request(name, ids, writing.settings)
            except (RuntimeError, TypeError, ValueError) as error:
                refused.append(News(writing, [], "error", str(error)))
                continue
            self._running.append(writing)
            if prompt not in known:
                computed.add(prompt)
        return refused

    def _news(self) -> Iterator[News]:
        reasons = {
            openvino_genai.GenerationFinishReason.STOP: "stop",
            openvino_genai.GenerationFinishReason.LENGTH: "length",
        }
        for writing in list(self._running):
            tokens: list[int] = []
            reason, error = None, ""
            while writing.handle.can_read():
                for output in writing.handle.read().values():
                    tokens += output.generated_ids
                    reason = reasons.get(output.finish_reason)
            if writing.handle.get_status() == openvino_genai.GenerationStatus.IGNORED:
                reason, error = "error", "the key-value cache is full"
            if reason:
                self._running.remove(writing)
            writing.begun = writing.begun or bool(tokens)
            if tokens or reason:
                yield News(writing, tokens, reason, error)

    def close(self) -> None:
        """Free the library's memory; the batch is of no use any more."""
        for writing in self._running:
            writing.handle.cancel()
        if self._pipeline.has_non_finished_requests():
            self._pipeline.step()  # computes nothing: without it the library reports lost pages
        del self._pipeline


def properties(group: int) -> dict[str, Any]:
    """Return how the library computes; int8 activations share a scale in groups of ``group``."""
    return {**_PROPERTIES, "DYNAMIC_QUANTIZATION_GROUP_SIZE": group}


def settings(
    sampling: Sampling, *, seed: int, room: int, end: int
) -> openvino_genai.GenerationConfig:
    """Return a request's settings as the library takes them; its filters are transformers'.

    ``room`` is what the context leaves, in tokens; ``end`` ends a text.
    """
    return openvino_genai.GenerationConfig(
        do_sample=True,
        temperature=float(sampling.temperature),
        top_p=float(sampling.top_p),
        top_k=int(sampling.top_k),
        min_p=min(float(sampling.min_p), _ALMOST_ALL),
        repetition_penalty=float(sampling.repetition_penalty),
        max_new_tokens=min(sampling.max_tokens, room),
        rng_seed=seed,
        eos_token_id=end,
    )
