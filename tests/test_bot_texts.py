"""The readers' texts: both languages whole, the same places to fill in, Telegram's limits."""

import dataclasses
import string

import pytest

from bot import admin_texts
from bot.admin_texts import AdminTexts
from bot.formatting import units
from bot.texts import EN, RU, Texts, texts_for
from tests.retraining_report import FIGURES


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize(
    ("russian", "english"), [(RU, EN), (admin_texts.RU, admin_texts.EN)], ids=["readers", "admins"]
)
def test_both_languages_fill_in_the_same_places(
    russian: Texts | AdminTexts, english: Texts | AdminTexts
) -> None:
    for field in dataclasses.fields(russian):
        one, other = getattr(russian, field.name), getattr(english, field.name)
        assert one, field.name
        assert other, field.name
        assert places(one) == places(other), field.name


@pytest.mark.parametrize("texts", [RU, EN])
def test_toasts_fit(texts: Texts) -> None:
    for toast in ("thanks", "sorry", "stopping", "too_late", "not_yours", "gone", "old_button"):
        assert units(getattr(texts, toast)) <= 200
    assert units(texts.not_your_question) <= 200


@pytest.mark.parametrize("texts", [admin_texts.RU, admin_texts.EN])
def test_admins_toasts_and_table_fit(texts: AdminTexts) -> None:
    name = "имя" * 33
    for toast in (texts.requested, texts.cancelling, texts.over, texts.share_refused):
        assert units(toast) <= 200
    assert units(texts.activated.format(name=name)) <= 200
    assert units(texts.shared.format(name=name, percent=100)) <= 200
    for figure, *_ in FIGURES:
        assert len(getattr(texts, figure)) <= 16


@pytest.mark.parametrize(
    ("code", "language"),
    [("ru", "ru"), ("ru-RU", "ru"), ("RU", "ru"), ("en", "en"), ("run", "en"), (None, "en")],
)
def test_the_language_code_decides(code: str | None, language: str) -> None:
    assert texts_for(code).language == language
