"""The engine over real servers that run pushkin-mini: ``transformers serve``, and vLLM.

vLLM is tested where there is one: VLLM=/path/to/vllm, or ``vllm`` on the path (its requirements
do not go together with this project's, so it has an environment of its own).
"""

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.import_utils import is_serve_available

from ml.engine import EngineError, PromptTooLongError, Request, Sampling
from ml.engine_openai import OpenAIEngine

FOLDER = Path(__file__).parents[1] / "ml" / "pretrained" / "pushkin-mini"
CONTEXT = 512
PROMPT = "Вечер был тихий; дорога шла полем"
GREEDY: dict[str, Any] = {"top_k": 1, "temperature": 0.01}

pytestmark = pytest.mark.timeout(400)  # vLLM compiles the model first


@dataclass
class Real:
    kind: str
    model: str
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


def command(kind: str) -> list[str]:
    """Return what starts a server, or skip."""
    if kind == "transformers":
        program = Path(sys.executable).with_name("transformers")
        if not is_serve_available() or not program.exists():
            pytest.skip("transformers serve needs fastapi and uvicorn")
        return [str(program), "serve", str(FOLDER), "--device", "cpu", "--dtype", "float32"]
    vllm = os.environ.get("VLLM") or shutil.which("vllm")
    if vllm is None:
        pytest.skip("vLLM is not installed here: VLLM names no program")
    shape = ["--dtype", "float32", "--max-num-seqs", "8", "--served-model-name", "pushkin-mini"]
    return [vllm, "serve", str(FOLDER), *shape]


@pytest.fixture(scope="module", params=["transformers", "vllm"])
def real(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Real]:
    arguments = command(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "hub").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    environment = os.environ | {
        "HF_HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    }
    name = str(FOLDER) if request.param == "transformers" else FOLDER.name
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*arguments, "--host", "127.0.0.1", "--port", str(port)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
        )
        try:
            asyncio.run(until_up(port, process))
            yield Real(request.param, name, port)
        finally:
            process.terminate()
            process.wait(30)


async def until_up(port: int, process: subprocess.Popen[bytes]) -> None:
    async with httpx.AsyncClient() as client:
        while process.poll() is None:
            try:
                if (await client.get(f"http://127.0.0.1:{port}/health")).is_success:
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.2)
    raise AssertionError(f"the server ended with {process.returncode}")


@pytest.fixture
async def engine(real: Real) -> AsyncIterator[OpenAIEngine]:
    engine = OpenAIEngine(real.model, [real.url], context=CONTEXT)
    await engine.start()
    yield engine
    await engine.close()


def asks(prompt: str = PROMPT, context: str = "", seed: int = 1, **sampling: Any) -> Request:
    return Request(prompt, context, Sampling(**sampling), seed)


async def write(engine: OpenAIEngine, request: Request) -> tuple[str, int, str | None]:
    stream = await engine.submit(request)
    text = "".join([piece async for piece in stream])
    return text, stream.tokens, stream.finish_reason


async def test_greedy_text_equals_plain_generate(engine: OpenAIEngine) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(FOLDER, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    ids = tokenizer(PROMPT, return_tensors="pt", add_special_tokens=False)
    slow = model.generate(**ids, do_sample=False, max_new_tokens=24, pad_token_id=0)
    expected = tokenizer.decode(slow[0, ids.input_ids.shape[1] :], skip_special_tokens=True)
    stream = await engine.submit(asks(max_tokens=24, **GREEDY))
    pieces = [piece async for piece in stream]
    assert "".join(pieces) == str(expected).rstrip("\ufffd")
    assert (stream.tokens, stream.finish_reason) == (24, "length")
    assert len(pieces) > 12  # it is streamed


async def test_a_seed_gives_the_same_text_in_a_crowd(engine: OpenAIEngine, real: Real) -> None:
    alone = await write(engine, asks(seed=5, max_tokens=20))
    crowd = await asyncio.gather(
        *(write(engine, asks(seed=seed, max_tokens=20)) for seed in (4, 5, 6, 7))
    )
    assert crowd[1] == alone
    if real.kind == "vllm":  # the other draws only for a model whose own settings say so
        assert len({text for text, _, _ in crowd}) == 4


async def test_cancelled_text_is_written_no_further(engine: OpenAIEngine, real: Real) -> None:
    loop = asyncio.get_running_loop()
    long = asks(max_tokens=450)
    began = loop.time()
    await write(engine, long)
    whole = loop.time() - began
    before = await written(real)
    stream = await engine.submit(long)
    async for _ in stream:
        stream.cancel()
    began = loop.time()
    await write(engine, asks(max_tokens=1))  # transformers serve writes one after another
    assert loop.time() - began < whole / 2
    assert await written(real) - before < 100


async def written(real: Real) -> float:
    """Return the tokens that vLLM has written since its start; the other does not count."""
    if real.kind != "vllm":
        return 0.0
    async with httpx.AsyncClient() as client:
        metrics = (await client.get(f"http://127.0.0.1:{real.port}/metrics")).text
    return float(re.findall(r"^vllm:generation_tokens_total\S* (\S+)$", metrics, re.MULTILINE)[0])


async def test_long_story_is_cut_and_continued(engine: OpenAIEngine) -> None:
    context = "Ямщик помахивал кнутом, и тройка неслась по снегу. " * 100
    text, tokens, reason = await write(engine, asks(context=context, max_tokens=450))
    assert text
    assert 100 < tokens < CONTEXT - 200 or reason == "stop"


async def test_card_says_what_the_server_holds(engine: OpenAIEngine, real: Real) -> None:
    assert engine.card.name == real.model
    assert engine.card.version == ("pushkin-mini" if real.kind == "vllm" else "unknown")
    assert (engine.card.prompt_tokens, engine.card.prompt_characters) == (CONTEXT - 160, 900)


async def test_what_the_server_finds_too_long_is_refused(engine: OpenAIEngine, real: Real) -> None:
    if real.kind != "vllm":
        pytest.skip("transformers serve has no limit of its own: ENGINE_CONTEXT is all there is")
    with pytest.raises(PromptTooLongError):  # a sign takes three tokens, not a third of one
        await write(engine, asks("漢" * 1000))


async def test_name_that_the_server_does_not_know_is_one_clear_error(real: Real) -> None:
    with pytest.raises(EngineError, match=r"no server writes with 'other': http://127.*other"):
        await OpenAIEngine("other", [real.url]).start()
