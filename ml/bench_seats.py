"""The processes of a serving bench: one a contestant, stopped unless it is its turn.

    with seated([Contestant("ours", functools.partial(our_openvino, folder, 8))], codec) as seats:
        for round_, work, seat, run in interleave(seats, [Work(readers=8)], rounds=3): ...

Each loads its model once and keeps its memory to itself. Between its turns the system stops it:
some libraries spin while they wait. What disturbs the machine disturbs all of them.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from tokenizers import Tokenizer

from ml.bench import BenchError, Run, Work, Writer, prompts

# Loads the model in the contestant's own process and gives it as long as the context is open.
Loader = Callable[[], contextlib.AbstractContextManager[Writer]]


@dataclass(frozen=True)
class Contestant:
    """An engine under a name; ``load`` is a module's function, or a partial of one.

    ``bytes_per_token`` are the weights that one token takes to read. One that writes ``most``
    stories at a time is asked for no more, and would be no faster with more. ``prepare`` is called
    with the model's folder before anybody loads it.
    """

    name: str
    load: Loader
    bytes_per_token: float = 0.0
    most: int = 1_000_000
    prepare: Callable[[Path], object] | None = None


_WARMING = 4  # tokens of a story
_ENDING = 30.0  # seconds that a contestant may take to end


class Seat:
    """A contestant's process, seen from the bench: stopped unless it is its turn."""

    def __init__(self, contestant: Contestant, codec: Path) -> None:
        context = get_context("spawn")
        self.contestant = contestant
        self._line, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, contestant.load, codec), name=contestant.name
        )
        self._process.start()
        theirs.close()
        self._system = psutil.Process(self._process.pid)
        started = time.monotonic()
        self._answer()
        self.load_seconds = time.monotonic() - started
        self._stop()

    def run(self, work: Work, seed: int) -> Run:
        """Let it write. Raises BenchError."""
        for process in self._processes():
            process.resume()
        before = self._computed()
        self._line.send((work, seed))
        run: Run = self._answer()
        run = replace(run, processor=self._computed() - before)
        self._stop()
        if run.tokens != work.readers * work.story:
            wanted = work.readers * work.story
            raise BenchError(f"{self.contestant.name}: {run.tokens} tokens instead of {wanted}")
        return run

    def _computed(self) -> float:
        times = [process.cpu_times() for process in self._processes()]
        return sum(time.user + time.system for time in times)

    def _answer(self) -> Any:
        try:
            answer = self._line.recv()
        except EOFError:
            raise BenchError(f"{self.contestant.name}: its process died") from None
        if isinstance(answer, str):
            raise BenchError(f"{self.contestant.name}: {answer}")
        return answer

    def _stop(self) -> None:
        for process in self._processes():
            process.suspend()

    def _processes(self) -> list[psutil.Process]:
        if not self._system.is_running():
            return []
        return [self._system, *self._system.children(recursive=True)]

    @property
    def peak_memory(self) -> int:
        """Bytes resident at most since its start, loading included."""
        return sum(_peak(process.pid) for process in self._processes())

    def close(self) -> None:
        for process in self._processes():
            process.resume()
        with contextlib.suppress(BrokenPipeError):
            self._line.send(None)
        self._process.join(_ENDING)
        for process in self._processes():  # a library's thread may hold up one that has failed
            process.kill()
        self._process.join()


def _peak(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"the system does not tell the memory of process {pid}")


def _serve(line: Connection, load: Loader, codec_file: Path) -> None:
    """Load, say so, write what is asked for until nothing more is (the contestant's process)."""
    try:
        codec = Tokenizer.from_file(str(codec_file))
        with load() as write:
            line.send(True)
            while order := line.recv():
                work, seed = order
                line.send(write(prompts(codec, work, seed), work.story, seed))
    except Exception as error:  # whatever it is: the bench ends with it
        line.send(f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def seated(contestants: Sequence[Contestant], codec: Path) -> Iterator[list[Seat]]:
    """Load all contestants, one after the other; ``codec`` is the model's tokenizer.json."""
    with contextlib.ExitStack() as stack:
        seats = []
        for contestant in contestants:
            seats.append(Seat(contestant, codec))
            stack.callback(seats[-1].close)
        yield seats


def interleave(
    seats: Sequence[Seat], works: Sequence[Work], rounds: int
) -> Iterator[tuple[int, Work, Seat, Run]]:
    """Let every contestant do every work in every round, in turns.

    A first round of short stories only warms up.
    """
    for round_, work in itertools.product(range(rounds + 1), works):
        for seat in seats:
            if work.readers > seat.contestant.most:
                continue
            if round_:
                yield round_, work, seat, seat.run(work, seed=round_)
            else:
                seat.run(replace(work, story=_WARMING), seed=0)
