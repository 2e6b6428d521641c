"""What was tried to make OpenVINO faster: weights, groups of activations, settings of the library.

    writers = {variant.name: Steps(folder / variant.form, variant) for variant in VARIANTS}
    seconds = writers["as served"].write(readers=8, steps=16)

Measured in seconds of processor on one thread, which others' work on the machine hardly changes.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from ml.conversion import GROUP
from ml.decoding import Sampling
from ml.openvino_batch import properties, settings
from ml.openvino_quiet import openvino, openvino_genai
from ml.openvino_weights import INT4_GROUP

_ONE_THREAD = {"INFERENCE_NUM_THREADS": 1, "sampler_num_threads": 1}
_PROMPT = 25  # tokens


@dataclass(frozen=True)
class Variant:
    """A form of ``openvino_weights``, a group of ``conversion``, the library's own settings."""

    name: str
    form: str = "int8"
    group: int = GROUP
    settings: Mapping[str, Any] = field(default_factory=dict)


def variants(width: int) -> list[Variant]:
    """Return what is tried for a model whose matrices take ``width`` inputs or a multiple."""
    return [
        Variant("int8, groups of 32: the library's choice"),
        Variant("int8, a whole row: as served", group=width),
        Variant("activations in fp32", group=0),
        Variant("int8 symmetric, a whole row", "int8 symmetric", width),
        Variant("int4", "int4", math.gcd(width, INT4_GROUP)),
        Variant("bf16 between the matrices", settings={"INFERENCE_PRECISION_HINT": "bf16"}),
        Variant("cache in fp32", settings={"KV_CACHE_PRECISION": "f32"}),
    ]


class Steps:
    """The library's pipeline over a folder, as ``openvino_batch`` runs it, on one thread."""

    def __init__(self, folder: Path, variant: Variant, *, slots: int) -> None:
        config = openvino_genai.SchedulerConfig()
        config.num_kv_blocks = 8 * (slots + 1)  # 256 tokens each
        config.max_num_batched_tokens = 512
        chosen = {**properties(variant.group), **_ONE_THREAD, **variant.settings}
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(folder, config, "CPU", chosen)
        self._names = count()

    def write(self, readers: int, steps: int) -> list[float]:
        """Return the seconds of processor that each step after the opening's took."""
        handles = []  # a request whose handle is lost is dropped
        for _ in range(readers):
            name = next(self._names)
            ids = np.random.default_rng(name).integers(1, 250, (1, _PROMPT))
            how = settings(Sampling(max_tokens=steps + 1), seed=name, room=steps + 1, end=0)
            how.ignore_eos = True
            handles.append(self._pipeline.add_request(name, openvino.Tensor(ids), how))
        seconds = []
        while self._pipeline.has_non_finished_requests():
            started = time.process_time()
            self._pipeline.step()
            seconds.append(time.process_time() - started)
        return seconds[1:]
