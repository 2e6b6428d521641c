"""The byte-level BPE: nothing is lost, rare letters have tokens, transformers reads it back."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from ml import tokenizer as module
from ml.tokenizer import END_OF_TEXT, KINDS, load, train
from tests import toy

ALPHABET = "абвгдеёжзийклмнопрстуфхцчшщъыьэюя"

AWKWARD = [
    "",
    "Всё ещё ЁЛКА, ёж и подъём.",
    "Снег ❄️ и сани 🛷🐎, семья 👨‍👩‍👧",
    "中文, 日本語, ქართული",
    "нуль\x00внутри",
    "— тире – короткое ‒ и - дефис ― все",
    "  double  spaces   и три ",
    "\nс обоих концов\n",
    "\n\n\t\r\n \u00a0\u2003",
    "е\u0308щё и\u0306 а\u0301",
    "«Ну?..» — «Да!!!» (№ 5, § 12)",
    "1834 год, 12345678 рублей",
    "Écoutez, mon cher, ça ira",
    "ещё " * 2500,
]


@pytest.mark.parametrize("text", AWKWARD, ids=lambda text: text[:12].strip() or "blank")
def test_round_trip_loses_nothing(text: str) -> None:
    tokenizer = toy.toy_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_end_of_text_is_token_zero() -> None:
    tokenizer = toy.toy_tokenizer()
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == 0
    assert tokenizer.encode(f"Конец.{END_OF_TEXT}Начало.").count(0) == 1
    assert tokenizer.decode([0]) == END_OF_TEXT


def test_encoding_adds_no_special_token() -> None:
    assert 0 not in toy.toy_tokenizer().encode("Был вечер.\n\nШёл дождь.")


def test_vocabulary_has_the_asked_size() -> None:
    assert len(toy.toy_tokenizer()) == 300


@pytest.mark.parametrize("before", ["", " "], ids=["alone", "after a space"])
def test_every_letter_is_one_token(before: str) -> None:
    tokenizer = train([text for *_, text in toy.WORKS], vocabulary=1000)
    letters = ALPHABET + ALPHABET.upper()
    assert [x for x in letters if len(tokenizer.encode(before + x)) != 1] == []


def test_paragraph_end_is_a_token_of_its_own() -> None:
    # However often the same signs stand around it.
    tokenizer = train(["Да.\n— Нет.\n\n— Да.\n— Нет."] * 9000, vocabulary=400)
    (end,) = tokenizer.encode("\n")
    assert tokenizer.encode("Да.\n— Нет.\n\n— Да.").count(end) == 3
    assert [t for t in tokenizer.get_vocab() if "Ċ" in t] == ["Ċ"]  # a byte-level line feed


def test_token_never_spans_two_words() -> None:
    tokenizer = train(["и вот"] * 9000, vocabulary=400)
    assert [tokenizer.decode(t) for t in tokenizer.encode("и вот и вот")] == [
        "и",
        " вот",
        " и",
        " вот",
    ]


def test_saved_folder_is_read_by_transformers(tmp_path: Path) -> None:
    tokenizer = toy.toy_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert [again.encode(text) for text in AWKWARD] == [tokenizer.encode(t) for t in AWKWARD]
    assert [again.decode(again.encode(text)) for text in AWKWARD] == AWKWARD
    assert (again.eos_token_id, len(again)) == (0, len(tokenizer))


def test_merges_follow_the_textbook(monkeypatch: pytest.MonkeyPatch) -> None:
    # P. Gage, "A New Algorithm for Data Compression", 1994: aaabdaaabac is X d X a c after three
    # merges, of which the first joins aa and the last gives X = aaab.
    monkeypatch.setattr(module, "_ALPHABET_REPEATS", 0)
    bytes_and_end = 257
    for merges, tokens in ((1, "aa a b d aa a b a c"), (3, "aaab d aaab a c")):
        tokenizer = train(["aaabdaaabac"], bytes_and_end + merges)
        ids = tokenizer.encode("aaabdaaabac")
        assert tokenizer.convert_ids_to_tokens(ids) == tokens.split()


def test_same_documents_give_the_same_tokenizer() -> None:
    again = train([text for *_, text in toy.WORKS], vocabulary=300)
    assert again.get_vocab() == toy.toy_tokenizer().get_vocab()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", AWKWARD)
def test_every_kind_gives_any_text_back(kind: str, text: str) -> None:
    tokenizer = train([toy.EVENING, toy.ROAD], vocabulary=500, kind=kind)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_back_as_it_was_saved(kind: str, tmp_path: Path) -> None:
    tokenizer = train([toy.EVENING, toy.ROAD], vocabulary=500, kind=kind)
    tokenizer.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert (len(again), again.eos_token_id) == (len(tokenizer), 0)
    assert [again.encode(text) for text in AWKWARD] == [tokenizer.encode(text) for text in AWKWARD]


def test_character_tokenizer_spends_one_token_a_character() -> None:
    tokenizer = train([toy.EVENING], vocabulary=400, kind="character")
    assert len(tokenizer.encode(toy.EVENING)) == len(toy.EVENING)
    assert len(tokenizer.encode("£")) == 2  # unseen: its bytes


def test_word_tokenizer_keeps_common_words_whole_and_spells_the_others() -> None:
    text = "он увидел мельник увидел мельник редкость"
    tokenizer = train([text], vocabulary=400, kind="word")
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("увидел мельник")) == [
        *"увидел",  # at the beginning it has no space before it, and so is another piece
        " мельник",
    ]
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode(" редкость")) == [*" редкость"]


def test_vocabulary_is_a_bound_that_the_commonest_words_fill() -> None:
    text = " раз" * 9 + " два" * 5 + " три" * 3
    tokenizer = train([text], vocabulary=257 + 8 + 2, kind="word")
    tokens = set(tokenizer.get_vocab())
    assert len(tokenizer) == 257 + 8 + 2
    assert {" раз", " два"} <= tokens
    assert " три" not in tokens
