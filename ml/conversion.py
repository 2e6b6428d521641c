"""A model folder's conversion for OpenVINO: where it lies, what it must match, when it is made.

    models/pushkin-mini/1f0c2a9b8d7e/               the model
    models/pushkin-mini/.openvino-1f0c2a9b8d7e-1/   its conversion, and in ``meta.json`` its figures
    ml/pretrained/pushkin-mini/openvino/            the one that ships

    conversion = open_conversion(Path("ml/pretrained/pushkin-mini"))  # found or made

A conversion belongs to the weights whose hash it names: others are converted anew. It is made in
a process of its own, so that a worker never holds the libraries of a training in memory.
"""

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ml import registry

BUNDLED = "openvino"  # folder within a model that ships converted
CACHE = Path("data/openvino")  # for models in folders that cannot be written to
GROUP = 32  # the library's own choice: see ``Conversion.group``
RECIPE = 1  # of ``ml.openvino_model``: another one makes other files out of the same weights
ARCHITECTURES = {"gpt2", "llama"}  # that it was tested with
INSTALL = "pip install -c constraints.txt -e '.[train]'"
_LIBRARIES = ("torch", "transformers", "nncf")  # that converting needs, and serving does not

log = logging.getLogger("openvino")


class ConversionError(Exception):
    """A model cannot be converted: the message is one line and names the folder."""


@dataclass(frozen=True)
class Conversion:
    """A converted model; ``meta`` is its ``meta.json``, written by ``ml.openvino_model``."""

    folder: Path
    meta: Mapping[str, Any]

    @property
    def context(self) -> int:
        """What the model holds, in tokens."""
        return int(self.meta["context"])

    @property
    def parameters(self) -> int:
        return int(self.meta["parameters"])

    @property
    def group(self) -> int:
        """How many activations share a scale; in int4 as many weights do."""
        return int(self.meta.get("group", GROUP))


def convertible(model: Path) -> bool:
    """Tell whether a folder holds a model of a known architecture."""
    try:
        config = json.loads((model / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") in ARCHITECTURES


def check(model: Path) -> None:
    """Raise ConversionError, and RegistryError, for what is no model that can be converted."""
    registry.weights_sha256(model)
    if not convertible(model):
        known = ", ".join(sorted(ARCHITECTURES))
        raise ConversionError(f"{model}: no model that can be converted for OpenVINO ({known})")


def missing_libraries() -> list[str]:
    """Return what would have to be installed to convert a model."""
    return [name for name in _LIBRARIES if not find_spec(name)]


def find(model: Path) -> Conversion | None:
    """Return the conversion of a folder's weights, if there is one. Raises RegistryError."""
    digest = registry.weights_sha256(model)
    for folder in _places(model, digest):
        meta = _read(folder)
        if meta and (meta.get("weights_sha256"), meta.get("recipe")) == (digest, RECIPE):
            return Conversion(folder, meta)
    return None


def open_conversion(model: Path) -> Conversion:
    """Find a model's conversion or make it, once for all processes.

    Raises ConversionError, and RegistryError for a folder without weights.
    """
    if found := find(model):
        return found
    check(model)
    if missing := missing_libraries():
        raise ConversionError(
            f"{model}: converting it for OpenVINO needs {', '.join(missing)}; "
            f"install with: {INSTALL}"
        )
    _, *places = _places(model, registry.weights_sha256(model))
    target = next((place for place in places if _writable(place.parent)), places[-1])
    with _locked(target.parent):
        return find(model) or _convert_apart(model, target)  # another process may have made it


def _convert_apart(model: Path, target: Path) -> Conversion:
    level = log.getEffectiveLevel()
    with ProcessPoolExecutor(
        1, get_context("spawn"), initializer=_log_from, initargs=(level,)
    ) as pool:
        try:
            return pool.submit(_convert, model, target).result()
        except BrokenProcessPool as error:
            raise ConversionError(f"{model}: the conversion's process died; memory?") from error


def _log_from(level: int) -> None:
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.WARNING, format=form)
    log.setLevel(level)


def _convert(model: Path, target: Path) -> Conversion:
    from ml.openvino_model import convert

    return convert(model, target)


def _places(model: Path, digest: str) -> list[Path]:
    name = f".openvino-{digest[: registry.DIGITS]}-{RECIPE}"
    return [model / BUNDLED, model.parent / name, CACHE / name]


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        meta = json.loads((folder / "meta.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return meta if isinstance(meta, dict) else None


def _writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK)


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """Give a folder to fill, which becomes ``folder`` at the end, replacing it, or nothing.

    Only one process at a time may fill it; see ``_locked``. Raises ConversionError for a full disk
    and the like.
    """
    part = folder.with_name(f".{folder.name.removeprefix('.')}.new")
    try:
        shutil.rmtree(part, ignore_errors=True)  # of one that was killed
        part.mkdir(parents=True)
        yield part
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except OSError as error:
        raise ConversionError(f"{error.filename or part}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _locked(parent: Path) -> Iterator[None]:
    """Let one process at a time convert into a folder; the system frees a killed one's lock."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        file = (parent / ".openvino.lock").open("w")
    except OSError as error:
        raise ConversionError(f"{error.filename or parent}: {error.strerror}") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
