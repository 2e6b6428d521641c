"""Who takes part in the serving bench: our engines, and what others would serve the model with.

Each function loads a model folder in its contestant's own process (see ``ml.bench``) and gives a
``Writer``. All draw as the bot does by default, or as near to it as the library can.
"""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from ml import conversion
from ml.bench import BenchError, Run, Writer
from ml.decoding import Sampling
from ml.engine import Engine, Request

_VLLM_SECONDS = 300  # in which it must have started
SETTINGS = Sampling()


@contextlib.contextmanager
def our_openvino(folder: Path, slots: int) -> Iterator[Writer]:
    """The engine in its process, as the worker makes it."""
    from ml.apart import Apart

    make = lambda: Apart("ml.engine_openvino:OpenVINOEngine", str(folder), slots=slots)  # noqa: E731
    with _through_the_protocol(make) as write:
        yield write


def our_int4(folder: Path, slots: int) -> contextlib.AbstractContextManager[Writer]:
    """The same with weights in int4."""
    return our_openvino(in_int4(folder), slots)


def in_int4(folder: Path) -> Path:
    """Return a model's twin that serves in int4, made the first time.

    It is rounded to the nearest: random weights have nothing to fit.
    """
    twin = folder.with_name(f"{folder.name}-int4")
    made = conversion.find(twin) if twin.is_dir() else None
    if made is None or made.meta["format"] != "int4":
        from ml.openvino_model import convert

        with conversion.whole(twin) as part:
            shutil.copytree(folder, part, dirs_exist_ok=True)
            convert(part, part / conversion.BUNDLED, formats=["int4"], fit=False)
    return twin


@contextlib.contextmanager
def our_torch(folder: Path, slots: int) -> Iterator[Writer]:
    from ml.engine_torch import TorchEngine

    make = lambda: TorchEngine(str(folder), device="cpu", slots=slots)  # noqa: E731
    with _through_the_protocol(make) as write:
        yield write


@contextlib.contextmanager
def _through_the_protocol(make: Callable[[], Engine]) -> Iterator[Writer]:
    """Use an engine as the worker does: one stream a reader, all on one event loop."""
    with asyncio.Runner() as runner:

        async def begin() -> Engine:
            engine = make()
            await engine.start()
            return engine

        async def read(
            engine: Engine, request: Request, started: float
        ) -> tuple[float, float, int]:
            stream = await engine.submit(request)
            first = None
            async for _ in stream:
                first = first or time.perf_counter()
            end = time.perf_counter()
            return (first or end) - started, end - started, stream.tokens

        async def all_of(texts: list[str], story: int, seed: int) -> Run:
            settings = Sampling(max_tokens=story)
            started = time.perf_counter()
            found = await asyncio.gather(
                *(
                    read(engine, Request(text, sampling=settings, seed=seed + place), started)
                    for place, text in enumerate(texts)
                )
            )
            first, last, tokens = zip(*found, strict=True)
            return Run(list(first), list(last), sum(tokens))

        engine = runner.run(begin())
        yield lambda texts, story, seed: runner.run(all_of(texts, story, seed))
        runner.run(engine.close())


@contextlib.contextmanager
def bare_openvino(folder: Path) -> Iterator[Writer]:
    """OpenVINO GenAI's pipeline with its own defaults, on the same int8 weights."""
    from ml.openvino_quiet import openvino, openvino_genai

    encode = encoder(folder)
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        conversion.open_conversion(folder).folder, openvino_genai.SchedulerConfig(), "CPU"
    )

    def write(texts: list[str], story: int, seed: int) -> Run:
        started = time.perf_counter()
        handles = [
            pipeline.add_request(
                place,
                openvino.Tensor(np.array([encode(text)], dtype=np.int64)),
                openvino_genai.GenerationConfig(
                    do_sample=True,
                    temperature=SETTINGS.temperature,
                    top_p=SETTINGS.top_p,
                    top_k=SETTINGS.top_k,
                    max_new_tokens=story,
                    eos_token_id=0,
                    ignore_eos=True,
                    rng_seed=seed + place,
                ),
            )
            for place, text in enumerate(texts)
        ]
        first, last = [0.0] * len(texts), [0.0] * len(texts)
        tokens = 0
        while pipeline.has_non_finished_requests():
            pipeline.step()
            now = time.perf_counter() - started
            for place, handle in enumerate(handles):
                while handle.can_read():
                    tokens += sum(len(output.generated_ids) for output in handle.read().values())
                    first[place] = first[place] or now
                    last[place] = now
        return Run(first, last, tokens)

    yield write


@contextlib.contextmanager
def vllm(folder: Path, program: Path, slots: int) -> Iterator[Writer]:
    """A vLLM server on loopback, both in bf16 and on all cores, asked by our engine for servers."""
    from ml.engine_openai import OpenAIEngine

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0)))
    settings = {
        "VLLM_CPU_OMP_THREADS_BIND": cores,  # else it leaves a core of two to its scheduler
        "VLLM_CPU_KVCACHE_SPACE": "4",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    where = ["--served-model-name", "bench", "--host", "127.0.0.1", "--port", str(port)]
    how = ["--dtype", "bfloat16", "--max-num-seqs", str(slots)]
    command = [str(program), "serve", str(folder), *where, *how]
    with (folder.parent / "vllm.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | settings)
        try:
            _wait(f"http://127.0.0.1:{port}/health", server, log.name)
            url = f"http://127.0.0.1:{port}/v1"
            with _through_the_protocol(lambda: OpenAIEngine("bench", [url])) as write:
                yield write
        finally:
            server.terminate()
            server.wait()


def _wait(url: str, server: "subprocess.Popen[bytes]", log: str) -> None:
    until = time.monotonic() + _VLLM_SECONDS
    while server.poll() is None and time.monotonic() < until:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(url, timeout=5)
            return
        time.sleep(0.5)
    raise BenchError(f"vLLM did not start: see {log}")


def encoder(folder: Path) -> Callable[[str], list[int]]:
    codec = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda text: codec.encode(text, add_special_tokens=False).ids
