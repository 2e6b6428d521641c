"""Versions on disk: whole or not at all, named by their weights; an adapter within its parent."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from ml import registry
from ml.checkpoint import export
from ml.registry import RegistryError
from tests import toy

# peft still asks transformers by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
META = {"parent": None, "data_sha256": "ab" * 32, "seed": 7, "figures": {"bits": 1.5}}
ROOT = Path(__file__).parents[1]


def whole_model(folder: Path, seed: int = 0, context: int = 16) -> Path:
    model = toy.toy_model(300, context=context, seed=seed, sharpen=3)
    export(model, toy.toy_tokenizer(), {"name": "toy"}, folder)
    return folder


def adapter(folder: Path, base: Path, seed: int = 0) -> Path:
    """An adapter that changes what its base says."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    shape = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    peft = get_peft_model(model, shape)
    torch.manual_seed(seed)
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            parameter.data.normal_()
    peft.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_model(tmp_path_factory.mktemp("models") / "source")


@pytest.fixture(scope="module")
def lora(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapter(tmp_path_factory.mktemp("adapters") / "lora", source)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


def names(root: Path) -> list[str]:
    return [f"{version.name}/{version.version}" for version in registry.list_versions(root)]


def below(root: Path) -> set[str]:
    """All files and folders but the lock, as text."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.name != ".lock"}


def test_a_published_version_is_found_again_with_its_origin(root: Path, source: Path) -> None:
    version = registry.publish(source, "toy", META, root)
    assert version.folder == root / "toy" / version.version
    assert version == registry.resolve(root, "toy", version.version)
    assert version == registry.list_versions(root)[0]
    assert {name: version.meta[name] for name in META} == META
    assert version.meta["weights_sha256"].startswith(version.version)
    assert len(version.version) == registry.DIGITS
    folder = registry.open_version(version)
    assert folder == version.folder
    model = AutoModelForCausalLM.from_pretrained(folder)
    slow = AutoModelForCausalLM.from_pretrained(source)
    for mine, its in zip(model.parameters(), slow.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_the_model_that_ships_is_a_version_named_like_any_other(root: Path, source: Path) -> None:
    shipped = registry.bundled()
    assert shipped.version == registry.weights_sha256(registry.BUNDLED)[:12]
    assert registry.resolve(root, "pushkin-mini", shipped.version) == shipped
    assert registry.open_version(shipped) == registry.BUNDLED
    published = registry.publish(source, "toy", {}, root)
    assert published.version == registry.weights_sha256(source)[:12]
    with pytest.raises(RegistryError, match="no such version"):
        registry.resolve(root, "pushkin-mini", "0" * 12)


def test_publishing_the_same_weights_again_changes_nothing(root: Path, source: Path) -> None:
    first = registry.publish(source, "toy", META, root)
    before = below(root)
    assert registry.publish(source, "toy", {"seed": 8}, root) == first
    assert below(root) == before


def test_versions_are_listed_in_order_and_rubbish_is_not_one(root: Path, tmp_path: Path) -> None:
    assert names(root) == []
    models = [whole_model(tmp_path / str(seed), seed) for seed in (1, 2)]
    for name in ("b", "a"):
        for model in models:
            registry.publish(model, name, {}, root)
    (root / "a" / ".abc.part").mkdir()
    (root / "note.txt").write_text("")
    assert names(root) == sorted(names(root))
    assert [name[0] for name in names(root)] == ["a", "a", "b", "b"]


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a b", "/tmp"])
def test_a_name_cannot_leave_the_folder(root: Path, source: Path, name: str) -> None:
    with pytest.raises(RegistryError, match="no name of a model"):
        registry.publish(source, name, {}, root)
    with pytest.raises(RegistryError):
        registry.resolve(root, "toy", name or "..")


@pytest.mark.parametrize("file", ["pytorch_model.bin", "training_args.bin", "best.pt", "x.pkl"])
def test_a_pickle_is_refused(root: Path, source: Path, tmp_path: Path, file: str) -> None:
    copy = shutil.copytree(source, tmp_path / "copy")
    (copy / file).write_bytes(b"x")
    with pytest.raises(RegistryError, match=f"copy/{file}: a pickle"):
        registry.publish(copy, "toy", {}, root)
    version = registry.publish(source, "toy", {}, root)
    (version.folder / file).write_bytes(b"x")
    with pytest.raises(RegistryError, match=f"{version.version}/{file}: a pickle"):
        registry.open_version(version)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "harm", "said"),
    [
        ("model.safetensors", cut, r"model\.safetensors: corrupted: "),
        ("model.safetensors", flip, r"model\.safetensors: not the weights that were published"),
        ("model.safetensors", Path.unlink, r"no weights here"),
        ("meta.json", Path.unlink, r"meta\.json: No such file"),
        ("meta.json", cut, r"meta\.json: says no name and version"),
        ("config.json", Path.unlink, r"config\.json: missing"),
        ("tokenizer.json", Path.unlink, r"tokenizer\.json: missing"),
    ],
)
def test_a_harmed_version_is_not_opened_and_its_file_is_named(
    root: Path, source: Path, file: str, harm: Callable[[Path], None], said: str
) -> None:
    version = registry.publish(source, "toy", {}, root)
    harm(version.folder / file)
    with pytest.raises(RegistryError, match=said) as error:
        registry.open_version(version)
    assert str(version.folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_model_is_not_published(root: Path, source: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(source, tmp_path / "copy")
    with pytest.raises(RegistryError, match="nowhere: No such file"):
        registry.publish(tmp_path / "nowhere", "toy", {}, root)
    cut(copy / "model.safetensors")
    with pytest.raises(RegistryError, match="corrupted"):
        registry.publish(copy, "toy", {}, root)
    shutil.copy(source / "model.safetensors", copy)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(RegistryError, match=r"tokenizer\.json: missing"):
        registry.publish(copy, "toy", {}, root)
    assert below(root) == {"toy"}


def test_a_full_disk_leaves_nothing_and_is_one_line(
    root: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RegistryError, match=r"toy.*: cannot write: No space left on device$"):
            registry.publish(source, "toy", {}, root)
    assert below(root) == {"toy"}
    assert names(root) == []
    assert registry.publish(source, "toy", {}, root).version in names(root)[0]


KILLED = """
import os, sys
from pathlib import Path
from ml import registry
os.rename = lambda *paths: os._exit(9)
registry.publish(Path(sys.argv[1]), "toy", {}, Path(sys.argv[2]))
"""


def test_a_killed_publish_leaves_no_version_and_is_cleaned_up(root: Path, source: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(source), str(root)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert run.returncode == 9
    assert names(root) == []
    [leftover] = registry.clean(root)
    assert leftover.name.endswith(".part")
    assert below(root) == {"toy"}
    assert registry.clean(root) == []
    registry.publish(source, "toy", {}, root)
    assert len(names(root)) == 1


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(torch.arange(10)[None]).logits
    return found


def test_an_adapter_is_small_and_opens_as_base_and_adapter_together(
    root: Path, source: Path, lora: Path
) -> None:
    parent = registry.publish(source, "toy", {}, root)
    version = registry.publish(lora, "toy", {"parent": f"toy/{parent.version}"}, root)
    assert version.is_adapter
    assert not (version.folder / "model.safetensors").exists()
    folder = registry.open_version(version)
    assert folder != version.folder
    base: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    plain = logits(base)
    expected = logits(PeftModel.from_pretrained(base, str(lora)))
    found = logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (expected - plain).abs().max() > 0.1
    assert names(root) == sorted(f"toy/{one.version}" for one in (parent, version))
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert registry.open_version(version) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp, "merged a second time"
    shutil.rmtree(parent.folder)  # the model that ships is replaced by an update
    assert registry.open_version(version) == folder
    registry.publish(source, "toy", {}, root)
    shutil.rmtree(folder)  # a cache
    assert registry.open_version(version) == folder


def test_an_adapter_of_an_adapter_is_merged_with_both(
    root: Path, source: Path, lora: Path, tmp_path: Path
) -> None:
    first = registry.publish(source, "toy", {}, root)
    second = registry.publish(lora, "toy", {"parent": f"toy/{first.version}"}, root)
    merged = registry.open_version(second)
    further = adapter(tmp_path / "further", merged, seed=1)
    third = registry.publish(further, "toy", {"parent": f"toy/{second.version}"}, root)
    base: Any = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    expected = logits(PeftModel.from_pretrained(base, str(further)))
    folder = registry.open_version(third)
    found = logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_an_adapter_without_its_parent_is_no_version(root: Path, lora: Path) -> None:
    with pytest.raises(RegistryError, match=r"meta\.json: an adapter must name its parent"):
        registry.publish(lora, "toy", {}, root)
    with pytest.raises(RegistryError, match=r"toy/000000000000: no such version"):
        registry.publish(lora, "toy", {"parent": "toy/000000000000"}, root)
    assert names(root) == []


def test_an_adapter_of_another_architecture_is_no_version(
    root: Path, lora: Path, tmp_path: Path
) -> None:
    wide = toy.gpt_config(vocabulary=300, context=16, width=32, layers=2, heads=2)
    export(toy.new_gpt(wide, 0), toy.toy_tokenizer(), {}, tmp_path / "wide")
    deep = toy.gpt_config(vocabulary=300, context=16, width=16, layers=3, heads=2)
    export(toy.new_gpt(deep, 0), toy.toy_tokenizer(), {}, tmp_path / "deep")
    for name in ("wide", "deep"):
        parent = registry.publish(tmp_path / name, name, {}, root)
        with pytest.raises(RegistryError) as error:
            registry.publish(lora, "toy", {"parent": f"{name}/{parent.version}"}, root)
        said = str(error.value)
        assert "adapter_model.safetensors: cannot be merged with" in said
        assert parent.version in said
        assert "\n" not in said
    assert {name.split("/")[0] for name in names(root)} == {"wide", "deep"}
    assert registry.clean(root) == []


def test_a_harmed_parent_or_cache_is_named(root: Path, source: Path, lora: Path) -> None:
    parent = registry.publish(source, "toy", {}, root)
    version = registry.publish(lora, "toy", {"parent": f"toy/{parent.version}"}, root)
    cache = registry.open_version(version)
    flip(cache / "model.safetensors")
    with pytest.raises(RegistryError, match=r"merged.*model\.safetensors: not the weights"):
        registry.open_version(version)
    shutil.rmtree(cache)
    flip(parent.folder / "model.safetensors")
    with pytest.raises(RegistryError, match=rf"{parent.version}/model\.safetensors: not the"):
        registry.open_version(version)
    shutil.rmtree(parent.folder)
    with pytest.raises(RegistryError, match=rf"{parent.version}: no such version"):
        registry.open_version(version)
