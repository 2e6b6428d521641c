"""The example of the settings file says what the settings classes say, no more and no less."""

from itertools import pairwise
from pathlib import Path

from pydantic_settings import BaseSettings

from bot.config import BotSettings
from db.session import DatabaseSettings
from ml.retrain import RetrainSettings
from ml.worker import WorkerSettings
from scripts.generate_synthetic import SyntheticSettings

EXAMPLE = Path(__file__).parents[1] / ".env.example"
CLASSES: tuple[type[BaseSettings], ...] = (
    BotSettings,
    DatabaseSettings,
    WorkerSettings,
    RetrainSettings,
    SyntheticSettings,
)


def example() -> dict[str, tuple[str, str]]:
    """Return every key of the example with its value and the comment line before it."""
    lines = EXAMPLE.read_text("utf-8").splitlines()
    keys = {}
    for before, line in pairwise(lines):
        if line and not line.startswith("#"):
            key, _, value = line.partition("=")
            keys[key] = (value, before.removeprefix("# "))
    return keys


def test_keys_are_the_settings_fields() -> None:
    fields = [name.upper() for kind in CLASSES for name in kind.model_fields]
    assert sorted(fields) == sorted(example())
    assert len(fields) == len(set(fields)), "two classes share a name"


def test_values_are_the_defaults() -> None:
    for kind in CLASSES:
        for name, field in kind.model_fields.items():
            default = "" if field.default in (None, []) else str(field.default)
            assert example()[name.upper()][0] == default, name


def test_each_comment_is_the_fields_description() -> None:
    for kind in CLASSES:
        for name, field in kind.model_fields.items():
            comment = example()[name.upper()][1]
            assert field.description, name
            assert comment.startswith(field.description), name


def test_the_example_as_a_settings_file_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(EXAMPLE.read_text("utf-8"), "utf-8")
    for kind in CLASSES:
        assert kind(_env_file=file) == kind(_env_file=None)


def test_admin_ids_are_read_from_a_list_with_commas(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("ADMIN_IDS=12, 34,\n", "utf-8")
    assert BotSettings(_env_file=file).admin_ids == [12, 34]
