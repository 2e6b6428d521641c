"""Versions of models on disk: whole or not at all, named by their weights, checked when opened.

    models/pushkin-mini/1f0c2a9b8d7e/     weights as safetensors, tokenizer, meta.json
    models/pushkin-mini/.merged-…/        an adapter's weights within its parent's, made when opened

    version = publish(Path("out/dpo"), "pushkin-mini", {"parent": …, "seed": 1}, ROOT)
    engine = TorchEngine(str(open_version(version)))

A version's name is the first digits of the sha256 of its weights. An adapter (LoRA) is a version
that holds only what differs from its ``parent``, "name/version" in ``meta.json``. The model that
ships is a version too, outside of ``models/``. Names that begin with a dot are no versions.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

ROOT = Path("models")
BUNDLED = Path(__file__).parent / "pretrained" / "pushkin-mini"
DIGITS = 12  # of the hash in a version's name
_ADAPTER = "adapter_config.json"  # peft's; a whole model has config.json
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
# What transformers and peft raise for weights that do not fit each other.
_UNFIT = (RuntimeError, ValueError, KeyError, TypeError, AttributeError, SafetensorError)


class RegistryError(Exception):
    """A version cannot be published or opened: the message is one line and names the file."""


@dataclass(frozen=True)
class Version:
    """A published model; ``meta`` is its ``meta.json``."""

    name: str
    version: str
    folder: Path
    meta: Mapping[str, Any]

    @property
    def is_adapter(self) -> bool:
        return (self.folder / _ADAPTER).is_file()


def publish(source: Path, name: str, meta: Mapping[str, Any], root: Path = ROOT) -> Version:
    """Copy a folder's files to ``root`` as a version and return it.

    ``meta`` says how it was made: parent, data hash, config, commit, figures. Weights that are
    published already stay as they are. An adapter is merged once, so that one that does not fit
    its parent never becomes a version. Raises RegistryError.
    """
    if not _NAME.fullmatch(name):
        raise RegistryError(f"{name!r} is no name of a model: letters, digits, dots, dashes")
    _refuse_pickles(source)
    digest = weights_sha256(source)
    folder = root / name / digest[:DIGITS]
    own = {"name": name, "version": folder.name, "weights_sha256": digest}
    with _locked(root):
        if folder.exists():
            verify(folder)
            return read(folder)
        with _whole(folder) as part:
            for file in _files(source):
                shutil.copyfile(file, part / file.name)
            _write_meta(part, {**meta, **own})
            verify(part)
            if (part / _ADAPTER).is_file():
                _merge(Version(name, folder.name, part, {**meta, **own}), root)
    return read(folder)


def read(folder: Path) -> Version:
    """Return the version of a folder without a look at its weights. Raises RegistryError."""
    file = folder / "meta.json"
    try:
        meta = json.loads(file.read_text("utf-8"))
        return Version(meta["name"], meta["version"], folder, meta)
    except OSError as error:
        raise RegistryError(f"{file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RegistryError(f"{file}: says no name and version") from error


def resolve(root: Path, name: str, version: str) -> Version:
    """Return a version by its name, the one that ships among them. Raises RegistryError."""
    folder = root / name / version
    if _NAME.fullmatch(name) and _NAME.fullmatch(version) and folder.is_dir():
        found = read(folder)
        if (found.name, found.version) != (name, version):
            raise RegistryError(f"{folder}: holds {found.name}/{found.version}")
        return found
    if name == BUNDLED.name and version == (shipped := bundled()).version:
        return shipped
    raise RegistryError(f"{folder}: no such version")


def bundled() -> Version:
    """Return the version that ships, named like any other."""
    meta = json.loads((BUNDLED / "meta.json").read_text("utf-8"))
    return Version(meta["name"], weights_sha256(BUNDLED)[:DIGITS], BUNDLED, meta)


def list_versions(root: Path = ROOT) -> list[Version]:
    """Return all published versions, by name and then by version."""
    folders = (path for path in root.glob("[!.]*/[!.]*") if path.is_dir())
    return [read(folder) for folder in sorted(folders)]


def clean(root: Path = ROOT) -> list[Path]:
    """Remove what a killed ``publish`` or ``open_version`` left behind, and return it."""
    with _locked(root):  # whoever is at work holds the lock: what is unfinished now is nobody's
        leftovers = sorted(root.glob("[!.]*/.*.part"))
        for folder in leftovers:
            shutil.rmtree(folder)
    return leftovers


def verify(folder: Path) -> None:
    """Check that the weights are whole and those that were published. Raises RegistryError."""
    _refuse_pickles(folder)
    digest = weights_sha256(folder)
    for file in _weights(folder):
        try:
            with safe_open(file, framework="np"):  # reads the header and compares the length
                pass
        except (SafetensorError, OSError) as error:
            raise RegistryError(f"{file}: corrupted: {_line(error)}") from error
    needed = [_ADAPTER] if (folder / _ADAPTER).is_file() else ["config.json", "tokenizer.json"]
    for name in needed:
        if not (folder / name).is_file():
            raise RegistryError(f"{folder / name}: missing")
    if folder.resolve() != BUNDLED.resolve() and digest != read(folder).meta.get("weights_sha256"):
        names = ", ".join(file.name for file in _weights(folder))
        raise RegistryError(f"{folder / names}: not the weights that were published (sha256)")


def open_version(version: Version) -> Path:
    """Check a version and return a folder that an engine can load. Raises RegistryError.

    An adapter's is a cache beside it, made here unless it is there already.
    """
    verify(version.folder)
    if not version.is_adapter:
        return version.folder
    root = version.folder.parents[1]
    with _locked(root):
        return _merge(version, root)


def weights_sha256(folder: Path) -> str:
    """Return the hash of a folder's weights, file after file. Raises RegistryError."""
    digest = hashlib.sha256()
    for file in _weights(folder):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _weights(folder: Path) -> list[Path]:
    weights = [file for file in _files(folder) if file.suffix == ".safetensors"]
    if not weights:
        raise RegistryError(f"{folder}: no weights here (*.safetensors)")
    return weights


def _files(folder: Path) -> list[Path]:
    """Return a model's files in order; its folders are a training's and no part of it."""
    try:
        return sorted(file for file in folder.iterdir() if file.is_file())
    except OSError as error:
        raise RegistryError(f"{folder}: {error.strerror}") from error


def _refuse_pickles(folder: Path) -> None:
    for file in _files(folder):
        if file.suffix in _PICKLES:
            raise RegistryError(f"{file}: a pickle may run code when it is loaded; not taken")


def _merge(version: Version, root: Path) -> Path:
    """Return the folder of an adapter's weights within its parent's."""
    adapter = version.folder / "adapter_model.safetensors"
    parent = version.meta.get("parent")
    if not isinstance(parent, str) or parent.count("/") != 1:
        raise RegistryError(f"{version.folder / 'meta.json'}: an adapter must name its parent")
    # What was merged once outlives its parent: the model that ships may have been replaced.
    target = root / version.name / f".merged-{parent.split('/')[1]}-{version.version}"
    if target.exists():
        verify(target)
        return target
    base = resolve(root, *parent.split("/"))
    verify(base.folder)
    base_folder = _merge(base, root) if base.is_adapter else base.folder
    with _whole(target) as part:
        try:
            write_merged(version.folder, base_folder, part)
        except _UNFIT as error:
            raise RegistryError(
                f"{adapter}: cannot be merged with {parent}: {_line(error)}"
            ) from error
        own = {"weights_sha256": weights_sha256(part)}
        _write_meta(part, {**version.meta, **own})
    return target


def write_merged(adapter: Path, base: Path, target: Path) -> None:
    """Write base + adapter in fp32, whatever the base's type: rounding would lose small changes.

    Raises what torch, peft and transformers do for folders that do not fit each other.
    """
    from peft import (
        PeftConfig,
        get_peft_model,
        load_peft_weights,
        set_peft_model_state_dict,
    )
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    config = PeftConfig.from_pretrained(str(adapter))
    config.base_model_name_or_path = None  # where the base lay in training, which peft compares
    peft = get_peft_model(model, config)
    weights = load_peft_weights(str(adapter), device="cpu")
    loaded: Any = set_peft_model_state_dict(peft, weights)
    missing = [name for name in loaded.missing_keys if "lora_" in name or "modules_to_save" in name]
    if wrong := [*missing, *loaded.unexpected_keys]:
        raise ValueError(f"{len(wrong)} tensors have no counterpart, such as {wrong[0]}")
    peft.merge_and_unload(safe_merge=True).save_pretrained(target)
    AutoTokenizer.from_pretrained(base).save_pretrained(target)


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """Give a folder to fill, which becomes ``folder`` at the end, on the disk for good, or nothing.

    A full disk and the like become a RegistryError.
    """
    part = folder.with_name(f".{folder.name.removeprefix('.')}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)  # of one that was killed: we hold the lock
        part.mkdir(parents=True)
        yield part
        for file in part.iterdir():
            _sync(file)
        _sync(part)
        os.rename(part, folder)
        _sync(folder.parent)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        file = error.filename2 or error.filename or part
        raise RegistryError(f"{file}: cannot write: {error.strerror or error}") from error
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Let one process at a time write below ``root``; the system frees the lock of a killed one."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with (root / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise RegistryError(f"{error.filename or root}: {error.strerror}") from error


def _sync(path: Path) -> None:
    """Have a file's or a folder's content on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_meta(folder: Path, meta: Mapping[str, Any]) -> None:
    text = json.dumps(meta, ensure_ascii=False, indent=2)
    (folder / "meta.json").write_text(text + "\n", "utf-8")


def _line(error: BaseException) -> str:
    """Return an error's words on one line: torch's take many."""
    return " ".join(str(error).split())[:200]
