"""The torch engine's own: versions that come and go, and its memory."""

import gc
import weakref
from pathlib import Path

import pytest

from ml import registry
from ml.engine import EngineError, Request, Sampling
from ml.engine_torch import TorchEngine
from ml.serving import Served
from ml.worker import WorkerSettings, make_load
from tests.engines import trained, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("model"), steps=40)


async def test_rolling_back_gives_byte_identical_text(folder: Path, tmp_path: Path) -> None:
    load = make_load(WorkerSettings(_env_file=None, engine="torch", device="cpu", slots=2))
    other = trained(tmp_path / "other", steps=5)
    old, new = (registry.publish(one, "toy", {}, tmp_path / "models") for one in (folder, other))

    async def story(version: registry.Version) -> str:
        row = Served(1, version.name, version.version, str(version.folder), 0.0)
        engine = await load(row)
        wild = Sampling(temperature=2.0, max_tokens=30)
        text, _, _ = await write(engine, Request("Вечер", seed=11, sampling=wild))
        await engine.close()
        return text

    before, between, after = [await story(version) for version in (old, new, old)]
    assert before.encode() == after.encode()
    assert before != between


async def test_version_that_is_not_what_the_table_says_is_not_loaded(
    folder: Path, tmp_path: Path
) -> None:
    load = make_load(
        WorkerSettings(_env_file=None, engine="torch", device="cpu", model=str(folder))
    )
    version = registry.publish(folder, "toy", {}, tmp_path / "models")
    with pytest.raises(registry.RegistryError, match=f"holds toy {version.version}"):
        await load(Served(1, "toy", "0" * 12, str(version.folder), 0.0))
    with pytest.raises(registry.RegistryError, match=r"gone/meta\.json: No such file"):
        await load(Served(1, "toy", version.version, str(tmp_path / "gone"), 0.0))
    with pytest.raises(EngineError, match=f"MODEL is toy {version.version} now"):
        await load(Served(1, "toy", "0" * 12, None, 0.0))


async def test_closed_engine_leaves_nothing_of_its_model(folder: Path) -> None:
    engine = TorchEngine(str(folder), device="cpu", slots=1)
    await engine.start()
    await write(engine, Request("Вечер", sampling=Sampling(max_tokens=3)))
    model = weakref.ref(engine._manager.model)
    await engine.close()
    del engine
    gc.collect()
    assert model() is None
