"""Engines that come and go: how many at a time, who gets which job."""

import asyncio

import pytest

from ml import serving
from ml.engine import EchoEngine, Engine, EngineError
from ml.serving import Served, Serving


def version(number: int, share: float = 0.0) -> Served:
    return Served(number, "pushkin", f"v{number}", f"models/pushkin/v{number}", share)


class Shelf:
    """Loads echoes; counts what is in memory, what is loading included."""

    def __init__(self, *broken: int) -> None:
        self.broken, self.held, self.most = broken, 0, 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.tried: list[int] = []
        self.noted: list[tuple[int, str | None]] = []

    async def load(self, wanted: Served) -> Engine:
        self.tried.append(wanted.id)
        self.held += 1
        self.most = max(self.most, self.held)
        await self.gate.wait()
        if wanted.id in self.broken:
            self.held -= 1
            raise EngineError("no such model")
        return Volume(self)

    async def note(self, wanted: Served, trouble: str | None) -> None:
        self.noted.append((wanted.id, trouble))

    def serving(self) -> Serving:
        """Begin with version 1."""
        started = Serving(self.load, self.note)
        self.held += 1
        started.add(version(1), Volume(self))
        return started


class Volume(EchoEngine):
    def __init__(self, shelf: Shelf) -> None:
        super().__init__()
        self.shelf = shelf

    async def close(self) -> None:
        self.shelf.held -= 1


def writers(serving: Serving, jobs: int) -> list[int]:
    """Return which version gets each of the jobs, giving each back at once."""
    found = []
    for job_id in range(1, jobs + 1):
        held = serving.take(job_id)
        found.append(held.version.id)
        serving.give_back(held)
    return found


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5, 0.9, 1.0])
async def test_any_jobs_in_a_row_are_shared_out_right(share: float) -> None:
    shelf = Shelf()
    started = shelf.serving()
    await started.settle([version(1), version(2, share)])
    found = writers(started, 1000)
    for begin in range(0, 1000, 100):
        assert found[begin : begin + 100].count(2) == pytest.approx(100 * share, abs=3)
    assert writers(started, 1000) == found  # a second attempt goes where the first went


async def test_a_larger_share_takes_no_job_from_the_candidate() -> None:
    shelf = Shelf()
    started = shelf.serving()
    await started.settle([version(1), version(2, 0.2)])
    few = writers(started, 200)
    await started.settle([version(1), version(2, 0.4)])
    more = writers(started, 200)
    assert all(after == 2 for before, after in zip(few, more, strict=True) if before == 2)
    assert more.count(2) > few.count(2)
    assert shelf.tried == [2]  # a new share loads nothing


async def test_no_more_than_three_are_ever_in_memory() -> None:
    shelf = Shelf()
    started = shelf.serving()
    held = []
    for number in range(2, 9):  # each is activated while all before it still write
        table = [version(number), version(number + 100, 0.5)]
        for _ in range(3):
            await started.follow(table)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        held.append(started.take(number))
    assert shelf.most == serving.WRITING + 1
    for each in held:
        started.give_back(each)
    await started.settle(table)
    await started.follow(table)
    assert set(writers(started, 50)) == {8, 108}
    assert shelf.held == serving.WRITING
    await started.close()
    assert shelf.held == 0


async def test_candidate_that_cannot_be_loaded_leaves_its_share_to_the_active_version() -> None:
    shelf = Shelf(2)
    started = shelf.serving()
    table = [version(1), version(2, 0.5)]
    for _ in range(3):
        await started.settle(table)
    assert set(writers(started, 50)) == {1}
    assert shelf.tried == [2]
    await started.settle([version(1)])
    await started.settle(table)
    assert shelf.tried == [2, 2]


async def test_version_that_could_not_be_loaded_is_tried_again_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was tried again only when the table had changed, and only the worker's log knew why."""
    monkeypatch.setattr(serving, "RETRY_AFTER", 0.0)
    shelf = Shelf(2)
    started = shelf.serving()
    for tries in range(1, 6):
        await started.follow([version(2)])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if tries == 3:
            shelf.broken = ()
    assert shelf.tried == [2, 2, 2, 2]
    assert shelf.noted == [(2, "no such model")] * 3 + [(2, None)]
    assert set(writers(started, 20)) == {2}


async def test_version_that_is_not_wanted_any_more_when_it_is_there_is_closed() -> None:
    shelf = Shelf()
    shelf.gate.clear()
    started = shelf.serving()
    await started.follow([version(2)])
    await asyncio.sleep(0)
    shelf.gate.set()
    await started.settle([version(1)])
    await started.follow([version(1)])
    assert set(writers(started, 20)) == {1}
    assert shelf.held == 1


async def test_mistake_in_loading_is_not_swallowed() -> None:
    async def load(wanted: Served) -> Engine:
        raise ZeroDivisionError(str(wanted))

    started = Serving(load, Shelf().note)
    started.add(version(1), EchoEngine())
    with pytest.raises(ZeroDivisionError):
        await started.settle([version(2)])


async def test_closing_waits_for_what_is_loading_and_closes_it_too() -> None:
    shelf = Shelf()
    shelf.gate.clear()
    started = shelf.serving()
    await started.follow([version(2)])
    await asyncio.sleep(0)
    closing = asyncio.create_task(started.close())
    await asyncio.sleep(0)
    assert not closing.done()
    shelf.gate.set()
    await closing
    assert shelf.held == 0
