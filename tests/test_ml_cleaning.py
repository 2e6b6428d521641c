"""Each cleaning step alone, the defects of the first project, and that cleaning is stable."""

import random
import re

import pytest

from ml import cleaning
from ml.annotations import (
    drop_curly_notes,
    drop_footnote_marks,
    drop_note_lines,
    drop_signed_notes,
    resolve_angle_brackets,
    resolve_square_brackets,
)
from ml.cleaning import STEPS, clean_lines, clean_paragraph, is_plain
from ml.corpus import Work, chapters, clean
from tests import toy


def slowly(text: str) -> str:
    """What clean_paragraph does, without its fast path."""
    while True:
        before = text
        for step in STEPS:
            text = step(text)
            if "\n" in text:
                return text
        if text == before:
            return text


# The defects of the first project's corpus, one test each.


def test_yo_does_not_become_latin_e() -> None:
    text = "Всё ещё Ёлка; е\u0308ж, ещe и всë."  # composed, decomposed, Latin e, Latin ë
    assert clean(text) == "Всё ещё Ёлка; ёж, еще и всё."
    assert not re.search("[A-Za-zë]", clean(text))


def test_yo_is_not_deleted() -> None:
    text = "Её тётка ждёт приёма. ЁЛКА!"
    assert clean(text) == text


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        ("Он ушёл – и пропал.", "Он ушёл — и пропал."),
        ("В 1812 году, 26 августа.", "В 1812 году, 26 августа."),
        ("Он ушёл… Куда?..", "Он ушёл... Куда?.."),
        ("Вечер.\n\nУтро.", "Вечер.\nУтро."),
    ],
)
def test_en_dashes_digits_ellipses_and_paragraphs_do_not_vanish(raw: str, kept: str) -> None:
    assert clean(raw) == kept


def test_title_is_not_glued_to_the_text() -> None:
    text = "ВЕЧЕР\nГлава I\nБыл дождь.<br>* * *Наутро прояснилось.\n== Глава II ==\nВсё стихло."
    assert clean(text).split("\n") == [
        "ВЕЧЕР",
        "Глава I",
        "Был дождь.",
        "* * *",
        "Наутро прояснилось.",
        "Глава II",
        "Всё стихло.",
    ]
    work = Work("a.txt", "a", "Вечер", "prose", clean(text))
    assert chapters(work) == ["ВЕЧЕР", "Был дождь.\n* * *\nНаутро прояснилось.", "Всё стихло."]


@pytest.mark.parametrize("dots", ["...", "…", ". . .", ". . . .", "....", ".....", "…."])
def test_three_dots_are_written_one_way(dots: str) -> None:
    assert clean(f"Он ушёл{dots} Куда?") == "Он ушёл... Куда?"


@pytest.mark.parametrize("dots", ["?..", "?...", "?…", "?...."])
def test_two_dots_follow_a_question_mark(dots: str) -> None:
    assert clean(f"Куда{dots} Зачем?") == "Куда?.. Зачем?"


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("Он вышел[1].", "Он вышел."),
        ("Он вышел [12], не простясь.", "Он вышел, не простясь."),
        ("Он вышел в галантир, [*2] сударь.", "Он вышел в галантир, сударь."),
        ("Он вышел (Прим. ред.).", "Он вышел."),
        ("Шульц (староста. — Прим. автора.) вышел.", "Шульц вышел."),
        ("Примечание редактора: так в рукописи.", ""),
        ("[1] Так в рукописи.", ""),
        ("↑ Так в рукописи.", ""),
        ("* Латышское слово.", ""),
        ("(*16) См. выше.", ""),
        ("[Стр. 71]", ""),
        ("— 71 —", ""),
        ("< 161 >", ""),
        ("Свет {Прим. стр. 71}, и тень.", "Свет, и тень."),
    ],
)
def test_editorial_notes_are_dropped(raw: str, cleaned: str) -> None:
    assert clean(raw) == cleaned


# The steps.


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("a &mdash; b&nbsp;&#171;в&#xBB;", "a — b\u00a0«в»"),
        ("AT&T; Q&A; R & D", "AT&T; Q&A; R & D"),
    ],
)
def test_entities_are_decoded(raw: str, cleaned: str) -> None:
    assert cleaning.decode_entities(raw) == cleaned


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("<i>Он</i> <span class='x'>вышел</span>.", "Он вышел."),
        ("Он<ref name=a>Так.</ref> вышел<ref name=a/><sup>1</sup>.", "Он вышел."),
        ("г<осподин> <b>Белов</b>", "г<осподин> Белов"),
        ("Он вышел.<br/>Она тоже.", "Он вышел.\nОна тоже."),
    ],
)
def test_tags_are_dropped(raw: str, cleaned: str) -> None:
    assert cleaning.drop_tags(raw) == cleaned


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("'''Белов''' ''сказал''", "Белов сказал"),
        ("[[Белов (повесть)|Белов]] и [[Горский]]", "Белов и Горский"),
        ("[[Категория:Повести]]", ""),
        ("=== Глава I ===", "Глава I"),
        ("широта 45°27'45'', долгота 12°26'45''", "широта 45°27'45'', долгота 12°26'45''"),
    ],
)
def test_wiki_markup_is_dropped(raw: str, cleaned: str) -> None:
    assert cleaning.drop_wiki_markup(raw) == cleaned


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("ба\u00adрин", "барин"),
        ("ба\u200bрин\ufeff", "барин"),
        ("за\u0301мок", "замок"),
        ("чтό ж", "что ж"),
        ("cafe\u0301 и E\u0301variste", "café и Évariste"),
    ],
)
def test_invisible_signs_and_stress_are_dropped(raw: str, cleaned: str) -> None:
    assert clean_paragraph(raw) == cleaned


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("cкaзaл oн", "сказал он"),
        ("Он вышел, a она осталась c ним.", "Он вышел, а она осталась с ним."),
        ("A он вышел.", "А он вышел."),
        ("Людовика ХIV и ХVI", "Людовика XIV и XVI"),
        ("Il y a un соnsеil.", "Il y a un conseil."),
        ("Коuда репутацияd", "Коuда репутацияd"),  # OCR slips, not look-alikes
        ("C'est la vie, a он", "C'est la vie, а он"),
        ("Comment ça va, mon cher?", "Comment ça va, mon cher?"),
    ],
)
def test_lookalike_letters_are_mended(raw: str, cleaned: str) -> None:
    assert cleaning.mend_lookalikes(raw) == cleaned


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("г<осподи>на Белова", "господина Белова"),
        ("его ‹самого› видели", "его самого видели"),
        ("степь <?>, поле", "степь, поле"),
        ("злобой <...> А те", "злобой ... А те"),
        ("да<нрзб.> и", "да и"),
        ("on dit,<<12>> сказал", "on dit, сказал"),
        ("in toto <без пропусков — лат.>.", "in toto."),
        ("5 < 7", "5 < 7"),
    ],
)
def test_angle_brackets_are_resolved(raw: str, cleaned: str) -> None:
    assert resolve_angle_brackets(raw) == cleaned


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("дозволит мне [остаться] хотя", "дозволит мне остаться хотя"),
        ("в[шах]", "вшах"),
        ("cercle vicieux» [порочный круг], — подумал", "cercle vicieux», — подумал"),
        ("фирман [указ (перс.)] султана", "фирман султана"),
        ("птивер [рюмку (от фр. petit verre)] вина", "птивер вина"),
        ("гоф[придворными (от нем. Hof — двор)]-девицами", "гоф-девицами"),
        ("[ Глава II]", "Глава II"),
    ],
)
def test_square_brackets_are_resolved(raw: str, cleaned: str) -> None:
    assert resolve_square_brackets(raw) == cleaned


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("ремесла(1). медленно(*116)", "ремесла. медленно"),
        ("дженнете*!» и туллен?*", "дженнете!» и туллен?"),
        ("графиня***, в Р**, князь* и 188* года", "графиня***, в Р**, князь* и 188* года"),
        ("Вчера (17) вечер, всего (1815)", "Вчера (17) вечер, всего (1815)"),
    ],
)
def test_footnote_marks_are_dropped(raw: str, cleaned: str) -> None:
    assert drop_footnote_marks(raw) == cleaned


@pytest.mark.parametrize(
    "kept",
    [
        "** скоро удостоверился в неверности",
        "* * *",
        "***",
        "(1830)",
        "12.",
        "1812 год.",
        "— Да, — сказал он, — и полно.",
        "Примечания достойно сие место.",
    ],
)
def test_authors_lines_are_not_notes(kept: str) -> None:
    assert drop_note_lines(kept) == kept


@pytest.mark.parametrize("kept", ["(например, так)", "(примерно)", "(см. прим. 2)", "(он вышел)"])
def test_authors_parentheses_are_not_notes(kept: str) -> None:
    assert drop_signed_notes(kept) == kept


def test_templates_in_templates_are_dropped() -> None:
    assert drop_curly_notes("Он {уд} вышел {{а|b}}.") == "Он вышел {}."
    assert clean("Он {уд} вышел {{а|{{b}}}}.") == "Он вышел."


def test_signs_misread_are_mended() -> None:
    assert cleaning.mend_signs("68®20' и Ќ 29") == "68°20' и № 29"


# The whole.

AWKWARD = [
    *"аеёАЁo cxIб—–-.…?!,;:«»„“”\"'()[]{}<>*=&#|~0123 \t\n",
    *(
        "...",
        "..",
        "[1]",
        "[[",
        "]]",
        "{{",
        "}}",
        "<<",
        ">>",
        "<br>",
        "<i>",
        "</p>",
        "&lt;",
        "&amp;",
    ),
    *(
        "&#91;",
        "прим.",
        "Прим. ред.",
        " нрзб ",
        "* * *",
        "***",
        "'''",
        "==",
        "стр. 5",
        "̈",
        "́",
        "\u00ad",
    ),
    *(
        "фр.",
        "г<осподин>",
        "[*2]",
        "(*3)",
        "↑",
        "Глава II",
        "ХIV",
        " a ",
        "®",
        "Ќ ",
        "\r",
        "\u2028",
    ),
]


@pytest.fixture(scope="module")
def awkward() -> list[str]:
    draw = random.Random(1799)
    return ["".join(draw.choices(AWKWARD, k=draw.randint(1, 25))) for _ in range(6000)]


def test_cleaning_twice_changes_nothing_on_awkward_strings(awkward: list[str]) -> None:
    for text in awkward:
        once = clean(text)
        assert clean(once) == once, repr(text)


def test_fast_path_agrees_with_the_steps(awkward: list[str]) -> None:
    plain = "абвёЁЯ ,.—!?:;«»- ..."
    draw = random.Random(1837)
    lines = ["".join(draw.choices(plain, k=draw.randint(0, 12))) for _ in range(6000)]
    assert sum(map(is_plain, lines)) > 1000
    for text in [*lines, *awkward]:
        if is_plain(text):
            assert slowly(text) == text, repr(text)


def test_cleaned_lines_are_paragraphs(awkward: list[str]) -> None:
    for line in clean_lines(awkward):
        assert line == " ".join(line.split())


def test_cleaning_is_a_stream() -> None:
    read = []

    def lines():
        for number in range(3):
            read.append(number)
            yield f"Строка {number}.\n"

    stream = clean_lines(lines())
    assert next(stream) == "Строка 0."
    assert read == [0]


@pytest.mark.parametrize("text", [work[-1] for work in toy.WORKS])
def test_clean_text_is_not_damaged(text: str) -> None:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    assert clean(text).split("\n") == [line.replace("…", "...") for line in lines]
