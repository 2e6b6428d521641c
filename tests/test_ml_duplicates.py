"""Real doubles are found, shared quotations are not."""

import random

import pytest

from ml.duplicates import RUN, DuplicateIndex

NOUNS = ["дом", "сад", "лес", "день", "гость", "снег", "барин", "ямщик", "кучер", "вечер"]
VERBS = ["стоял", "шумел", "глядел", "молчал", "приехал", "погас", "ждал", "спорил", "писал"]
REST = ["давно", "тихо", "вдруг", "у ворот", "на дороге", "в деревне", "за рекою", "до утра"]


def compose(seed: int, paragraphs: int, sentences: int = 6) -> list[str]:
    """Paragraphs that share words with another seed's, not runs of them."""
    draw = random.Random(seed)
    return [
        " ".join(
            f"{draw.choice(NOUNS)} {draw.choice(VERBS)} {draw.choice(REST)} "
            f"{draw.choice(NOUNS)} {draw.choice(REST)}.".capitalize()
            for _ in range(sentences)
        )
        for _ in range(paragraphs)
    ]


def change_words(paragraphs: list[str], share: float) -> list[str]:
    draw = random.Random(0)
    return [
        " ".join(draw.choice(VERBS) if draw.random() < share else word for word in text.split())
        for text in paragraphs
    ]


@pytest.fixture
def index() -> DuplicateIndex:
    index = DuplicateIndex()
    first = compose(1, 20)
    assert index.find_twin("first", first) is None
    assert index.find_repeats("first", first) == []
    return index


def test_same_text_is_a_twin(index: DuplicateIndex) -> None:
    twin = index.find_twin("second", compose(1, 20))
    assert twin is not None
    assert (twin.name, twin.share) == ("first", 1.0)


@pytest.mark.parametrize(
    "edition",
    [
        [text.upper().replace("Ё", "Е") for text in compose(1, 20)],
        [" ".join(compose(1, 20))],  # other paragraphs
        change_words(compose(1, 20), 0.03),
        ["Вступление издателя.", *compose(1, 20)],
    ],
)
def test_another_edition_is_a_twin(index: DuplicateIndex, edition: list[str]) -> None:
    twin = index.find_twin("second", edition)
    assert twin is not None
    assert twin.name == "first"


def test_another_text_is_no_twin(index: DuplicateIndex) -> None:
    assert index.find_twin("second", compose(2, 20)) is None
    assert index.find_repeats("second", compose(2, 20)) == []


def test_work_that_is_half_new_is_no_twin(index: DuplicateIndex) -> None:
    collection = [*compose(2, 20), *compose(1, 20)]
    assert index.find_twin("second", collection) is None
    assert [(r.start, r.end) for r in index.find_repeats("second", collection)] == [(20, 40)]


def test_passage_of_another_work_is_a_repeat(index: DuplicateIndex) -> None:
    passage = compose(1, 20)[5:12]
    repeats = index.find_repeats("second", [*compose(2, 3), *passage, *compose(3, 3)])
    assert [(r.start, r.end, r.twin) for r in repeats] == [(3, 10, "first")]
    assert repeats[0].characters == sum(map(len, passage)) >= RUN


def test_short_paragraphs_inside_a_repeat_go_with_it(index: DuplicateIndex) -> None:
    passage = compose(1, 20)[5:12]
    passage.insert(3, "— Да.")
    repeats = index.find_repeats("second", ["— Нет.", *passage, "— Нет."])
    assert [(r.start, r.end) for r in repeats] == [(1, 9)]


def test_text_that_stands_twice_in_one_file_is_a_repeat() -> None:
    text = compose(4, 8)
    repeats = DuplicateIndex().find_repeats("only", text + text)
    assert [(r.start, r.end, r.twin) for r in repeats] == [(8, 16, "only")]


def test_short_quotation_is_not_a_repeat(index: DuplicateIndex) -> None:
    quotation = compose(1, 20)[5:7]
    assert 100 < sum(map(len, quotation)) < RUN
    text = [*compose(2, 3), *quotation, *compose(3, 3)]
    assert index.find_twin("second", text) is None
    assert index.find_repeats("second", text) == []


def test_courtesies_are_not_repeats() -> None:
    index = DuplicateIndex()
    letter = ["Милостивый государь!", "Честь имею быть вашим покорным слугою."] * 40
    assert index.find_repeats("first", letter) == []
    assert index.find_repeats("second", letter) == []


def test_very_short_works_are_compared_too() -> None:
    index = DuplicateIndex()
    assert index.find_twin("first", ["Был вечер."]) is None
    assert index.find_twin("second", ["Было утро."]) is None
    twin = index.find_twin("third", ["Был вечер!"])
    assert twin is not None
    assert twin.name == "first"


def test_works_without_a_word_are_no_twins() -> None:
    index = DuplicateIndex()
    assert index.find_twin("first", ["* * *"]) is None
    assert index.find_twin("second", ["* * *"]) is None
