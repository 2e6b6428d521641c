"""Stories in messages: lengths in UTF-16 units, seams at paragraphs, the opening in bold."""

import pytest

from bot.formatting import LIMIT, clean, decimal, shorten, split, story_parts, units


def test_units_are_utf16() -> None:
    assert units("ё") == 1
    assert units("🌞") == 2


def test_a_short_text_is_one_piece() -> None:
    assert split("Мороз и солнце") == ["Мороз и солнце"]


def test_an_empty_text_is_no_piece() -> None:
    assert split("  \n ") == []


def test_a_long_text_is_cut_after_paragraphs() -> None:
    paragraph = "Слово. " * 200  # 1,400 units
    pieces = split("\n".join([paragraph.strip()] * 5))
    assert all(units(piece) <= LIMIT for piece in pieces)
    assert all(piece.endswith("Слово.") for piece in pieces)
    assert [piece.count("\n") for piece in pieces] == [1, 1, 0]


def test_a_long_paragraph_is_cut_after_a_sentence() -> None:
    pieces = split("Шёл дождь, и все молчали. " * 400)
    assert all(piece.endswith("молчали.") for piece in pieces)


def test_a_long_sentence_is_cut_between_words() -> None:
    pieces = split("слово " * 2000)
    assert all(set(piece.split(" ")) == {"слово"} for piece in pieces)


@pytest.mark.parametrize("sign", ["ж", "🌞"])
def test_a_text_without_seams_is_cut_between_characters(sign: str) -> None:
    pieces = split(sign * 10_000)
    assert "".join(pieces) == sign * 10_000
    assert all(units(piece) <= LIMIT for piece in pieces)


def test_twenty_thousand_characters_lose_only_white_space() -> None:
    text = "\n".join(f"Абзац {i}. " + "Снег шёл весь день. " * (i % 40) for i in range(60))
    pieces = split(text)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_the_opening_is_bold_and_nothing_else() -> None:
    (part,) = story_parts("🌞 Кот", " спал.")
    assert part.text == "🌞 Кот спал."
    assert [(e.type, e.offset, e.length) for e in part.entities] == [("bold", 0, 6)]


def test_an_opening_over_two_messages_is_bold_in_both() -> None:
    parts = story_parts("слово " * 1000, "конец.")
    assert [len(part.entities) for part in parts] == [1, 1]
    assert parts[0].entities[0].length == units(parts[0].text)
    last = parts[1].entities[0]
    assert parts[1].text[last.length :].strip() == "конец."


def test_a_continuation_without_words_begins_at_the_margin() -> None:
    (part,) = story_parts("", "\n— Поди сюда, — сказал он.")
    assert part.text == "— Поди сюда, — сказал он."
    assert part.entities == []


def test_clean_drops_what_no_database_and_no_telegram_takes() -> None:
    assert clean(" a\x00\x1b[31mб\ud800\n\tв \x7f") == "a[31mб\ufffd\n\tв"


def test_a_short_text_is_not_shortened() -> None:
    assert shorten("Буря мглою.", 11) == "Буря мглою."
    assert shorten("  ", 10) == ""


@pytest.mark.parametrize("limit", [20, 21, 30, 40])
def test_a_long_text_is_cut_after_a_sentence(limit: int) -> None:
    text = shorten("Буря мглою. Небо кроет. Вихри снежные крутя.", limit)
    assert text in ("Буря мглою. …", "Буря мглою. Небо кроет. …")
    assert units(text) <= limit


def test_a_number_has_its_languages_sign() -> None:
    assert decimal(1.7792, 3, "ru") == "1,779"
    assert decimal(1.7792, 3, "en") == "1.779"
    assert decimal(12, 0, "ru") == "12"
