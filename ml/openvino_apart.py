"""The OpenVINO engine for a process of its own (``ml.apart``): it steps in the event loop itself.

Without a second thread nobody waits for Python's lock: what a step has brought leaves before the
next begins, and whoever has come by then takes part in it.
"""

import asyncio
from threading import current_thread

from ml.engine import Request, Stream
from ml.engine_openvino import OpenVINOEngine

_TURNS = 4  # of the loop between steps: from a line on the socket to the batch, and back


class SteppingEngine(OpenVINOEngine):
    """A step stops the loop: for a process that has nothing else to do."""

    async def start(self) -> None:
        await asyncio.to_thread(self._load)
        self._thread = current_thread()  # the one that steps
        self._changed = asyncio.Event()
        self._stepping = asyncio.create_task(self._step())

    async def submit(self, request: Request) -> Stream:
        stream = await super().submit(request)
        self._changed.set()
        return stream

    async def _step(self) -> None:
        try:
            while not self._closing:
                if self._inbox.empty() and not self._batch.busy:
                    self._changed.clear()
                    await self._changed.wait()
                    continue
                self._take()
                self._deliver(self._batch.step())
                for _ in range(_TURNS):
                    await asyncio.sleep(0)
            self._batch.close()
        # Whatever the library raises, it cannot go on: the streams end, ``submit`` says so.
        except Exception as error:
            self._closing = True
            self._die(str(error))

    async def close(self) -> None:
        if self._thread is None:
            return
        self._closing = True
        for stream, _ in list(self._streams.values()):
            stream.cancel()
        self._changed.set()
        await self._stepping
