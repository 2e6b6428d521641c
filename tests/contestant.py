"""A contestant of the serving bench without a model, for a spawned process to find by name."""

import contextlib
import os
from collections.abc import Iterator

from ml.bench import Run, Writer


@contextlib.contextmanager
def scripted(ending: str) -> Iterator[Writer]:
    """Write nothing in half a second, and end as ``ending`` says."""

    def write(texts: list[str], story: int, _: int) -> Run:
        if ending == "dies":
            os._exit(1)
        if ending == "fails":
            raise ValueError("no room")
        short = ending == "stops short"
        return Run([0.1] * len(texts), [0.5] * len(texts), story * len(texts) - short)

    yield write
