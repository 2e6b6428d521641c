"""aiogram's types, built on first use: every one of them, in any order, in a fresh interpreter."""

import subprocess
import sys

PROGRAM = """
import random
from bot.lazy_types import install
install()
from aiogram import methods, types
built = [n for n in types.__all__ if getattr(getattr(types, n), "__pydantic_complete__", False)]
assert not built, built
update = types.Update.model_validate({"update_id": 1, "message": {
    "message_id": 1, "date": 1, "text": "да", "chat": {"id": 1, "type": "private"}}})
assert update.message.chat.id == 1
markup = types.InlineKeyboardMarkup(inline_keyboard=[])
assert methods.SendMessage(chat_id=1, text="а", reply_markup=markup).reply_markup is markup
every = [getattr(room, name) for room in (types, methods) for name in room.__all__]
models = [m for m in every if hasattr(m, "model_rebuild") and m is not methods.TelegramMethod]
random.Random(7).shuffle(models)
for model in models:
    model.model_rebuild()
    assert model.__pydantic_complete__, model
print(len(models))
"""


def test_every_type_builds_on_first_use() -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 500
