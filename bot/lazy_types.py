"""Lets aiogram build its types when they are first used instead of all at once.

aiogram 3.31 declares its models with pydantic's ``defer_build`` and then, at the end of
``aiogram.types``, builds a validator for each of Telegram's 440 types: over 100 MB, of which a
bot uses a few (github.com/aiogram/aiogram/issues/1513). ``install`` skips that loop, keeps the
names it resolves types with, and hands them to pydantic when a type is used for the first time.

Call it before anything imports aiogram; ``python -m bot`` does. Without it all works the same,
in more memory.
"""

import sys
from typing import Any

from pydantic import BaseModel


def install() -> None:
    """Import aiogram so that its types are built on first use."""
    assert "aiogram" not in sys.modules, "aiogram has been imported already"
    build = vars(BaseModel)["model_rebuild"].__func__
    names: dict[str, Any] = {}

    def remember(_model: type[BaseModel], *, _types_namespace: dict[str, Any], **_: Any) -> None:
        names.update(_types_namespace)

    def build_on_use(model: type[BaseModel], *, force: bool = False, **options: Any) -> bool | None:
        options = {"raise_errors": options.get("raise_errors", True), "_types_namespace": names}
        result: bool | None = build(model, force=force, **options)
        return result

    model: Any = BaseModel  # mypy does not let a class method be exchanged
    model.model_rebuild = classmethod(remember)
    try:
        from aiogram.types import TelegramObject
    finally:
        model.model_rebuild = classmethod(build)
    from aiogram.methods import Response, TelegramMethod

    bases: tuple[Any, ...] = (TelegramObject, TelegramMethod, Response)
    for base in bases:
        base.model_rebuild = classmethod(build_on_use)
