"""Which room may import what, read from the sources; and that importing does nothing."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("bot", "db", "ml", "migrations", "scripts", "tests")
MODELS = {
    *(
        "autopsy",
        "baselines",
        "checkpoint",
        "evaluate",
        "experiment",
        "finetune",
        "generation",
        "gpt",
        "models",
    ),
    *("attention", "finetune_loop", "ngram", "pairs", "preference", "throughput", "training"),
}
DOORS = {
    "torch": {f"ml.{name}" for name in MODELS | {"engine_torch", "openvino_model", "processors"}}
    | {"ml.bench_forms", "ml.bench_model", "ml.bench_others", "ml.bench_speculation"},
    "openai": {"ml.synthetic", "ml.completions"},
    "openvino": {"ml.openvino_quiet", "ml.openvino_model", "ml.bench_speculation"},
    "nncf": {"ml.openvino_weights"},
    "matplotlib": {"ml.plots_style"},
    "sklearn": {"ml.authors"},
    "optuna": {"ml.search"},
    "datasketch": {"ml.duplicates"},
    "pymorphy3": {"ml.frequency"},
}

Rule = Callable[[str, str], bool]  # (module, imported name) -> is it forbidden


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def imports(module: str, source: str) -> set[str]:
    """Return the full names that a source imports anywhere, ``from a import b`` giving ``a.b``."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            start = [*package, node.module] if node.module else package
            names.update(".".join([*start, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func).split(".")[-1]
            if called in {"import_module", "__import__"}:
                names.add(str(node.args[0].value))
    return names


def sources(*rooms: str) -> dict[str, str]:
    """Return ``{"bot.handlers.story": source}`` for every module of the rooms."""
    files = [file for room in rooms for file in sorted((ROOT / room).rglob("*.py"))]
    assert files, f"no modules in {rooms}"
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts): file.read_text("utf-8")
        for file in files
    }


def offences(rule: Rule, modules: dict[str, str]) -> list[str]:
    return [
        f"{module} imports {name}"
        for module, source in modules.items()
        for name in sorted(imports(module, source))
        if rule(module, name)
    ]


def from_db_to_another_room(module: str, name: str) -> bool:
    return within(module, "db") and within(name, *ROOMS) and not within(name, "db")


def from_bot_to_a_model_or_another_room(module: str, name: str) -> bool:
    ours = within(name, *ROOMS) and not within(name, "bot", "db")
    return within(module, "bot") and (ours or within(name, "torch", "transformers", "openai"))


def from_ml_to_telegram(module: str, name: str) -> bool:
    return within(module, "ml") and within(name, "bot", "aiogram")


def from_the_ml_library_to_db(module: str, name: str) -> bool:
    processes = {"ml.worker", "ml.retrain"}
    return within(module, "ml") and module not in processes and within(name, "db")


def from_anywhere_to_scripts(module: str, name: str) -> bool:
    return within(name, "scripts") and not within(module, "tests")


def past_a_door(module: str, name: str) -> bool:
    top = name.split(".")[0]
    doors = [rooms for library, rooms in DOORS.items() if f"{top}_".startswith(f"{library}_")]
    return not within(module, "tests") and any(module not in rooms for rooms in doors)


def from_migrations_past_the_models(module: str, name: str) -> bool:
    return within(module, "migrations") and within(name, *ROOMS) and not within(name, "db.models")


def test_db_imports_none_of_ours() -> None:
    assert offences(from_db_to_another_room, sources("db")) == []


def test_bot_imports_only_db_and_no_model() -> None:
    assert offences(from_bot_to_a_model_or_another_room, sources("bot")) == []


def test_ml_imports_neither_bot_nor_aiogram() -> None:
    assert offences(from_ml_to_telegram, sources("ml")) == []


def test_in_ml_only_worker_and_retrain_import_db() -> None:
    assert offences(from_the_ml_library_to_db, sources("ml")) == []


def test_only_tests_import_scripts() -> None:
    assert offences(from_anywhere_to_scripts, sources(*ROOMS)) == []


def test_heavy_library_has_one_door() -> None:
    assert offences(past_a_door, sources(*ROOMS)) == []


def test_migrations_import_only_the_models() -> None:
    assert offences(from_migrations_past_the_models, sources("migrations")) == []


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        (from_db_to_another_room, "db.jobs", "from ml.decoding import trim"),
        (from_db_to_another_room, "db.jobs", "def f():\n    import bot"),
        (from_db_to_another_room, "db.jobs", "from .. import migrations"),
        (from_bot_to_a_model_or_another_room, "bot.app", "from ml import worker"),
        (from_bot_to_a_model_or_another_room, "bot.handlers.story", "from ...ml import engine"),
        (from_bot_to_a_model_or_another_room, "bot.app", "import torch.nn as nn"),
        (from_bot_to_a_model_or_another_room, "bot.app", "from transformers import pipeline"),
        (from_bot_to_a_model_or_another_room, "bot.app", "if x:\n    from openai import OpenAI"),
        (from_ml_to_telegram, "ml.worker", "from aiogram import Bot"),
        (from_ml_to_telegram, "ml.worker", "class A:\n    from bot.texts import RU"),
        (from_the_ml_library_to_db, "ml.corpus", "from db import models"),
        (from_the_ml_library_to_db, "ml.corpus", "def f():\n    from db.models import Job"),
        (from_anywhere_to_scripts, "ml.corpus", "import scripts.run"),
        (from_anywhere_to_scripts, "scripts.a", "from scripts import train_mini"),
        (from_anywhere_to_scripts, "scripts.a", "from .train_mini import main"),
        (past_a_door, "ml.corpus", "import torch"),
        (past_a_door, "ml.worker", "import importlib\nimportlib.import_module('torch.nn')"),
        (past_a_door, "ml.plots", "from openai import OpenAI"),
        (past_a_door, "ml.engine_torch", "import openvino_genai"),
        (past_a_door, "scripts.run", "from matplotlib import pyplot"),
        (from_migrations_past_the_models, "migrations.env", "import db"),
        (from_migrations_past_the_models, "migrations.env", "from db import session"),
        (from_migrations_past_the_models, "migrations.versions.a", "from ... import bot"),
    ],
)
def test_made_up_offence_is_caught(rule: Rule, module: str, source: str) -> None:
    assert len(offences(rule, {module: source})) == 1


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        (from_db_to_another_room, "db.jobs", "from . import models\nimport sqlalchemy, dbm"),
        (from_bot_to_a_model_or_another_room, "bot.app", "from .texts import RU\nimport db.jobs"),
        (from_ml_to_telegram, "bot.app", "import aiogram"),
        (from_the_ml_library_to_db, "ml.worker", "from db import jobs"),
        (from_anywhere_to_scripts, "tests.test_run", "from scripts import run"),
        (past_a_door, "ml.gpt", "import torch"),
        (past_a_door, "ml.worker", "from ml.engine_torch import TorchEngine\nimport torchless"),
        (from_migrations_past_the_models, "migrations.env", "from db.models import Base"),
        (from_migrations_past_the_models, "migrations.env", "from db import models"),
    ],
)
def test_made_up_permitted_import_passes(rule: Rule, module: str, source: str) -> None:
    assert offences(rule, {module: source}) == []


def test_init_files_are_empty() -> None:
    inits = {name: text for name, text in sources(*ROOMS).items() if name.endswith("__init__")}
    assert len(inits) >= len(ROOMS)
    assert [name for name, text in inits.items() if text] == []


def test_every_module_says_what_it_is_for() -> None:
    mute = [
        name
        for name, text in sources(*ROOMS).items()
        if not name.endswith("__init__") and not ast.get_docstring(ast.parse(text))
    ]
    assert mute == []


def run(code: str, folder: Path) -> str:
    """Run code in a fresh interpreter that stands in an empty home; return what it prints."""
    home, temporary = folder / "home", folder / "temporary"
    home.mkdir()
    temporary.mkdir()
    # Only what Python needs, and no settings.
    environment = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment |= {"PYTHONPATH": str(ROOT), "HOME": str(home), "TMPDIR": str(temporary)}
    process = subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


# An audit hook sees what the libraries do too. Importing torch makes a cache folder in the
# temporary folder, which nobody can prevent; nothing else may be written.
_IMPORT_ALL = """
import importlib, logging, os, sys
seen = []
temporary = os.environ["TMPDIR"]
def watch(event, arguments):
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event in ("os.mkdir", "os.remove", "os.rename"):
        if not str(arguments[0]).startswith((temporary, os.devnull)):
            seen.append((event, arguments[0]))
    if event.startswith("socket."):
        seen.append((event, arguments))
sys.addaudithook(watch)
for module in {modules!r}:
    before = len(seen)
    importlib.import_module(module)
    for event in seen[before:]:
        print(module, *event)
    for name in ("", *logging.root.manager.loggerDict):
        if name.split(".")[0] in ("", "bot", "db", "ml") and logging.getLogger(name).handlers:
            print(module, "left a logging handler on", name or "the root logger")
"""


def test_importing_any_module_does_nothing(tmp_path: Path) -> None:
    modules = [name for name in sources("bot", "db", "ml") if not name.endswith("__init__")]
    assert run(_IMPORT_ALL.format(modules=modules), tmp_path) == ""
    assert list((tmp_path / "home").iterdir()) == []


def test_bot_starts_without_the_model_libraries(tmp_path: Path) -> None:
    code = "import sys, bot.__main__; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = set(run(code, tmp_path).split())
    assert "aiogram" in loaded
    assert loaded & {"torch", "transformers", "ml", "openai", "numpy"} == set()
