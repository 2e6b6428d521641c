"""The readers' texts: both languages whole, the same places to fill in, Telegram's limits."""

import dataclasses
import string

import pytest

from bot.formatting import units
from bot.texts import EN, RU, Texts, texts_for


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Texts)])
def test_both_languages_fill_in_the_same_places(field: str) -> None:
    russian, english = getattr(RU, field), getattr(EN, field)
    assert russian
    assert english
    assert places(russian) == places(english)


@pytest.mark.parametrize("texts", [RU, EN])
def test_toasts_fit(texts: Texts) -> None:
    for toast in ("thanks", "sorry", "stopping", "too_late", "not_yours", "gone", "old_button"):
        assert units(getattr(texts, toast)) <= 200


@pytest.mark.parametrize(
    ("code", "language"),
    [("ru", "ru"), ("ru-RU", "ru"), ("RU", "ru"), ("en", "en"), ("run", "en"), (None, "en")],
)
def test_the_language_code_decides(code: str | None, language: str) -> None:
    assert texts_for(code).language == language
