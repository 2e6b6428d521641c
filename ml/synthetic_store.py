"""Where synthetic stories are kept: a JSONL with every answer that was paid for.

with Store(Path("data/synthetic.jsonl")) as store:   # alone; cuts a half-written last line
    store.append(line)                               # on the disk when it returns
    print(store.tally.spent)
stories = [line for line in read_lines(path) if line.good]

A kill loses at most the answers that were on their way. `good` marks the texts to train on: an
answer that was cut, empty or lost stays in the file for its price.
"""

import asyncio
import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ml.synthetic_plan import SyntheticError

ANSWERS = 3  # paid answers that a story may take, in all runs together
LOST = "lost"  # the finish reason of a request that was sent and never answered


@dataclass(frozen=True)
class Line:
    """One answer; several may share an ``id``, the order's, of which at most one is good."""

    id: str
    theme: str
    group: str
    number: int
    text: str
    model: str
    finish_reason: str
    good: bool
    prompt_tokens: int
    completion_tokens: int
    cost: float  # US dollars; of a lost answer, the most it can have cost
    created: str  # UTC, ISO 8601
    temperature: float | None = None  # None: not sent, the provider's default
    batch: str | None = None  # the id of the batch that answered


_TYPES: dict[str, Any] = {
    **{field.name: str for field in fields(Line)},
    **dict.fromkeys(("number", "prompt_tokens", "completion_tokens"), int),
    "good": bool,
    "cost": (int, float),
    "temperature": (int, float, type(None)),
    "batch": (str, type(None)),
}


@dataclass
class Tally:
    """What a file of lines comes to. Money in US dollars."""

    good: set[str] = field(default_factory=set)  # ids
    answers: Counter[str] = field(default_factory=Counter)  # by id, without the lost
    bad: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    spent: float = 0.0
    lost: int = 0
    lost_cost: float = 0.0  # at most

    @property
    def at_most(self) -> float:
        """What all this has cost if every lost answer was charged."""
        return self.spent + self.lost_cost

    def wants(self, order: str) -> bool:
        """Say whether a story is still to be had: there is no good one, and few bad ones."""
        return order not in self.good and self.answers[order] < ANSWERS

    def __str__(self) -> str:
        said = f"{self.prompt_tokens:,} + {self.completion_tokens:,} tokens; ${self.spent:.4f}"
        if self.lost:
            said += f", and at most ${self.lost_cost:.4f} for {self.lost} answers that never came"
        return said

    def add(self, line: Line) -> None:
        """Count one line."""
        if line.finish_reason == LOST:
            self.lost += 1
            self.lost_cost += line.cost
            return
        self.answers[line.id] += 1
        self.prompt_tokens += line.prompt_tokens
        self.completion_tokens += line.completion_tokens
        self.spent += line.cost
        if line.good:
            self.good.add(line.id)
        else:
            self.bad += 1


def read_lines(path: Path) -> Iterator[Line]:
    """Yield every whole line; a half-written last one is left out.

    Raises SyntheticError, naming file and line.
    """
    for line, _ in _read(path):
        yield line


def _read(path: Path) -> Iterator[tuple[Line, int]]:
    """Yield each line with the offset of its end, in bytes."""
    end = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.endswith(b"\n"):  # every whole line is written with its end
                return
            end += len(raw)
            try:
                row = json.loads(raw)
            except ValueError:
                raise SyntheticError(f"{path}: line {number} is not JSON") from None
            if not isinstance(row, dict) or row.keys() != _TYPES.keys():
                raise SyntheticError(f"{path}: line {number} is not a story's")
            for name, kind in _TYPES.items():
                if not isinstance(row[name], kind):
                    raise SyntheticError(f"{path}: line {number}: what {name} is {row[name]!r}?")
            yield Line(**row), end


def tally(path: Path) -> Tally:
    """Count a file of lines that may not exist yet. Raises SyntheticError."""
    count = Tally()
    if path.exists():
        for line in read_lines(path):
            count.add(line)
    return count


class Store:
    """The JSONL, open for appending and locked against a second writer."""

    def __init__(self, path: Path) -> None:
        """Raises SyntheticError if the file is another's, broken, or cannot be opened."""
        self.path = path
        self.tally = Tally()
        self.batches: set[tuple[str, str]] = set()  # (batch, id) of every line from a batch
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise SyntheticError(f"{path}: {error.strerror}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._end = 0
            for line, self._end in _read(path):
                self._count(line)
            os.ftruncate(self._file, self._end)
        except BlockingIOError:
            self.close()
            raise SyntheticError(f"{path}: another run is writing it") from None
        except BaseException:
            self.close()
            raise

    def append(self, line: Line) -> None:
        """Put one line on the disk, whole or not at all. Raises SyntheticError."""
        raw = (json.dumps(asdict(line), ensure_ascii=False) + "\n").encode()
        written = 0
        try:
            while written < len(raw):
                written += os.write(self._file, raw[written:])
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, self._end)
            raise SyntheticError(f"{self.path}: {error.strerror}") from None
        self._end += written
        self._count(line)

    def _count(self, line: Line) -> None:
        self.tally.add(line)
        if line.batch is not None:
            self.batches.add((line.batch, line.id))

    def close(self) -> None:
        """Give the file free for others."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Budget:
    """Money that may be spent in all: on file, and held by the requests that are under way."""

    def __init__(self, limit: float, count: Tally) -> None:
        self.limit = limit
        self._count = count
        self._held: list[float] = []
        self._freed = asyncio.Condition()

    def allows(self, dollars: float) -> bool:
        """Say whether that much more, beside all that is under way, stays within the limit."""
        return self._count.at_most + sum(self._held) + dollars <= self.limit

    async def hold(self, dollars: float) -> bool:
        """Set money aside; wait for requests under way to cost less than they might have.

        False: even with nothing under way there is not enough.
        """
        async with self._freed:
            while not self.allows(dollars):
                if not self._held:
                    return False
                await self._freed.wait()
            self._held.append(dollars)
            return True

    async def free(self, dollars: float) -> None:
        """Give back what a request held; what it cost must be on file by now."""
        async with self._freed:
            self._held.remove(dollars)
            self._freed.notify_all()
