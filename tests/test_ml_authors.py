"""Telling authors apart: what is hidden, what is held out, what is learned, what is saved."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.multiclass import OneVsRestClassifier  # type: ignore[import-untyped]

from ml import authors
from ml.authors import AuthorModel, AuthorsError, Settings, examine, fit, load
from ml.corpus import Work
from ml.segments import SplitError, cut, held_out, plain, sample, target_of, unseen
from tests import toy

SMALL = Settings(
    segment=300, per_author=30, target_segments=30, ngrams=(1, 3), features=3000, rarest=1, words=30
)
SPLIT = {"validation": ["belov/b1.txt"], "test": ["belov/b2.txt"]}
HABITS = {  # how each of three invented authors speaks
    "И. Белов": ["однако", "весьма", "я", "сей", "нимало", "притом", "вовсе", "когда", "уже"],
    "П. Горский": ["ведь", "так-то", "оно", "же", "вот", "небось", "авось", "да", "и"],
    "К. Зимин": [
        "который",
        "чрезвычайно",
        "некоторый",
        "вследствие",
        "посредством",
        "однажды",
        "для",
        "при",
        "над",
    ],
}
COMMON = [
    "дорога",
    "снег",
    "лошадь",
    "станция",
    "окно",
    "вечер",
    "свеча",
    "письмо",
    "поле",
    "река",
    "дом",
    "ворота",
]
VERBS = ["смотрел", "молчал", "ехал", "писал", "ждал", "стоял", "говорил", "думал", "шёл", "пел"]


HEROES = {"И. Белов": "Вронцов", "П. Горский": "Дашутин", "К. Зимин": "Фекла"}


def write(author: str, sentences: int, seed: int, hero: str = "Петров") -> str:
    """Write a text of an author's habits about a hero."""
    chance = random.Random(f"{author} {seed}")
    text = []
    for _ in range(sentences):
        habits, things = chance.choices(HABITS[author], k=3), chance.choices(COMMON, k=3)
        words = [
            habits[0],
            things[0],
            hero,
            habits[1],
            chance.choice(VERBS),
            *things[1:],
            habits[2],
        ]
        text.append(f"{' '.join(words)}.".capitalize().replace(hero.lower(), hero))
    return " ".join(text)


def library(names: Sequence[str] = tuple(HABITS), *, sentences: int = 60) -> list[Work]:
    """Three works of each author, the last being the longest; of Zimin one."""
    works = []
    for author in names:
        folder = {"И. Белов": "belov", "П. Горский": "gorsky", "К. Зимин": "zimin"}[author]
        for number in (1, 2, 3) if author != "К. Зимин" else (3,):
            text = write(author, sentences + 3 * number, number, hero=HEROES[author])
            works.append(Work(f"{folder}/{folder[0]}{number}.txt", author, "", "prose", text))
    return works


@pytest.fixture(scope="module")
def model() -> AuthorModel:
    return fit(library(), SPLIT, SMALL)


# --- what is hidden


def test_edition_is_hidden() -> None:
    one = plain("«Ещё снег… – сказал\nямщик.» „Да“")
    assert one == plain('"Еще  снег... — сказал ямщик." "Да"') == "X снег... - сказал ямщик. X"


def test_names_numbers_and_foreign_words_are_hidden() -> None:
    text = "Вечером Иван Иваныч из 7 дома сказал bonjour; но Санкт-Петербург спал."
    hidden = "X X X из X дома сказал X; но X-X спал."
    assert plain(text) == hidden
    bare = "вечером иван иваныч из X дома сказал X; но санкт-петербург спал."
    assert plain(text, mask=False) == bare


def test_name_of_the_hero_changes_nothing(model: AuthorModel) -> None:
    one, other = (
        write("И. Белов", 8, 9, hero=hero) for hero in (HEROES["И. Белов"], HEROES["П. Горский"])
    )
    assert one != other
    assert model.attribute([one]) == model.attribute([other])
    assert model.deltas(one) == model.deltas(other)


def test_unmasked_name_would_decide() -> None:
    # What the masking is for.
    seeing = fit(library(), SPLIT, Settings(**{**vars(SMALL), "mask": False}))
    one, other = (
        write("И. Белов", 8, 9, hero=hero) for hero in (HEROES["И. Белов"], HEROES["П. Горский"])
    )
    [own], [foreign] = seeing.attribute([one]), seeing.attribute([other])
    assert foreign.probabilities["И. Белов"] < own.probabilities["И. Белов"]


# --- segments


def test_segments_hold_whole_sentences_of_about_the_length() -> None:
    text = write("И. Белов", 100, 1).replace(". ", ".\n", 5)
    segments = cut(text, 300)
    assert all(300 <= len(segment) <= 450 for segment in segments[:-1])
    assert all(segment.endswith(".") for segment in segments)
    assert " ".join(text.split()).startswith(" ".join(segments))
    assert cut("Коротко.", 300) == []
    assert [len(segment) for segment in cut("я" * 5000, 300)] == [450]


def test_sample_takes_from_every_work_and_all_over_it() -> None:
    short = Work("a/1", "А", "", "prose", write("И. Белов", 12, 1))
    long = Work("a/2", "А", "", "prose", write("И. Белов", 200, 2))
    chosen = sample([long, short], 10, 300)
    own = [segment for segment in chosen if segment in short.text]
    rest = [long.text.index(segment) / len(long.text) for segment in chosen if segment not in own]
    assert len(chosen) == 10
    assert own == cut(short.text, 300)
    assert min(rest) < 0.1
    assert max(rest) > 0.8
    assert sample([short], 99, 300) == own


# --- what is held out


def shelf(author: str, lengths: Sequence[int], genre: str = "prose") -> list[Work]:
    return [Work(f"{author}/{n}", author, "", genre, "я" * n) for n in lengths]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([9], []),
        ([9, 4], [4]),
        ([1, 2, 3], [2]),
        ([4, 3, 2, 1], [2]),
        ([1, 2, 3, 4, 5], [3]),
        (range(1, 14), [3, 8]),
    ],
)
def test_works_of_the_others_are_held_out_by_the_rule(
    lengths: Sequence[int], expected: list[int]
) -> None:
    works = shelf("т", [5, 7]) + shelf("а", lengths)
    assert held_out(works, {"test": ["т/7"]}) == {"т/7", *(f"а/{n}" for n in expected)}


def test_verse_is_neither_learned_nor_held_out() -> None:
    works = shelf("т", [5, 7]) + shelf("а", [3], "prose") + shelf("а", [1, 2], "verse")
    assert held_out(works, {"test": ["т/7"]}) == {"т/7"}


def test_author_is_the_tables_and_not_the_folder() -> None:
    works = [
        *shelf("т", [5, 7]),
        Work("travels/1", "один", "", "nonfiction", "я"),
        Work("travels/2", "другой", "", "nonfiction", "яя"),
    ]
    assert held_out(works, {"test": ["т/7"]}) == {"т/7"}


def test_split_must_hold_out_one_author() -> None:
    works = shelf("т", [5, 7]) + shelf("а", [3, 4])
    assert target_of(works, {"validation": ["т/5"], "test": ["т/7"]}) == "т"
    with pytest.raises(SplitError, match="not of а, т"):
        target_of(works, {"test": ["т/5", "а/3"]})
    with pytest.raises(SplitError, match="not of nobody"):
        target_of(works, {"test": ["п/1"]})


def test_nothing_held_out_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[str] = []

    def spy(works: Sequence[Work], limit: int, length: int) -> list[str]:
        learned.extend(work.file for work in works)
        return sample(works, limit, length)

    monkeypatch.setattr(authors, "sample", spy)
    fitted = fit(library(), SPLIT, SMALL)
    assert sorted(learned) == ["belov/b3.txt", "gorsky/g1.txt", "gorsky/g3.txt", "zimin/z3.txt"]
    assert fitted.held_out == ["belov/b1.txt", "belov/b2.txt", "gorsky/g2.txt"]


def test_corpus_of_one_author_is_refused() -> None:
    with pytest.raises(AuthorsError, match=r"И\. Белов or of anybody else"):
        fit(library(["И. Белов"]), SPLIT, SMALL)
    with pytest.raises(AuthorsError, match=r"И\. Белов"):
        fit(library(), {"test": [f"belov/b{n}.txt" for n in (1, 2, 3)]}, SMALL)


# --- what is learned


def test_works_held_out_find_their_authors(model: AuthorModel) -> None:
    report = examine(model, library())
    assert report["target"] == "И. Белов"
    assert report["accuracy"] > 0.9
    assert report["untested"] == ["К. Зимин"]
    assert set(report["authors"]) == {"И. Белов", "П. Горский"}


def test_report_counts_what_the_model_says() -> None:
    fitted = fit(library(), SPLIT, SMALL)
    said = iter(["И. Белов", "К. Зимин"] * 99)

    def guess(texts: Sequence[str]) -> list[authors.Attribution]:
        return [authors.Attribution(next(said), 1.0, {}) for _ in texts]

    object.__setattr__(fitted, "attribute", guess)
    texts = unseen(library(), fitted.held_out, fitted.target, 6, SMALL.segment)
    sizes = {author: len(own) for author, own in texts.items()}
    report = examine(fitted, library(), per_author=6)
    all_own = sizes["И. Белов"]
    right = (all_own + 1) // 2
    assert sizes["П. Горский"] == 6
    assert all_own > 12
    assert report["confusion"]["П. Горский"] == {"И. Белов": 3, "К. Зимин": 3}
    assert report["recall"] == pytest.approx(right / all_own)
    assert report["precision"] == pytest.approx(right / (right + 3))
    assert report["taken_for_target"] == 0.5
    assert report["accuracy"] == pytest.approx(right / (all_own + 6))
    assert report["mean_recall"] == pytest.approx(right / all_own / 2)


@pytest.mark.parametrize("names", [list(HABITS)[:2], list(HABITS)])
def test_probabilities_are_those_of_the_library(
    names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[OneVsRestClassifier] = []

    def keep(regression: LogisticRegression) -> OneVsRestClassifier:
        made.append(OneVsRestClassifier(regression))
        return made[-1]

    monkeypatch.setattr(authors, "OneVsRestClassifier", keep)
    fitted = fit(library(names), SPLIT, SMALL)
    text = write("И. Белов", 8, 5)
    expected = made[0].predict_proba(fitted._vectorizer.transform([plain(text)]))[0]
    [found] = fitted.attribute([text])
    assert list(found.probabilities) == fitted.authors == list(made[0].classes_)
    np.testing.assert_allclose(list(found.probabilities.values()), expected, atol=1e-4)
    assert found.author == "И. Белов"
    assert found.probability == max(found.probabilities.values())


def test_delta_agrees_with_its_definition(model: AuthorModel) -> None:
    text = write("П. Горский", 8, 5)
    words = [word.strip(".,;") for word in plain(text).replace("-", " ").split()]
    z = [
        (words.count(word) / len(words) - model.mean[place]) / model.deviation[place]
        for place, word in enumerate(model.words)
    ]
    for author, found in model.deltas(text).items():
        profile = model.profiles[model.authors.index(author)]
        assert found == pytest.approx(sum(abs(a - b) for a, b in zip(z, profile, strict=True)) / 30)


def test_delta_is_smallest_to_the_author(model: AuthorModel) -> None:
    for author in HABITS:
        deltas = model.deltas(write(author, 12, 7))
        assert min(deltas, key=deltas.__getitem__) == author


def test_delta_words_are_common_and_no_names(model: AuthorModel) -> None:
    assert len(model.words) == SMALL.words
    assert not any(hero.lower() in model.words for hero in HEROES.values())
    assert "X" not in model.words


@pytest.mark.parametrize("text", ["", "…", "Hello"])
def test_text_without_a_russian_word_is_attributed_all_the_same(
    text: str, model: AuthorModel
) -> None:
    [found] = model.attribute([text])
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert all(np.isfinite(list(model.deltas(text).values())))


def test_no_text_is_no_attribution(model: AuthorModel) -> None:
    assert model.attribute([]) == []


# --- what is saved


def test_saved_model_answers_the_same(model: AuthorModel, tmp_path: Path) -> None:
    model.save(tmp_path / "authors")
    loaded = load(tmp_path / "authors")
    texts = [write("К. Зимин", 8, 5), toy.EVENING]
    assert loaded.attribute(texts) == model.attribute(texts)
    assert loaded.deltas(texts[0]) == model.deltas(texts[0])
    assert (loaded.settings, loaded.target) == (SMALL, "И. Белов")
    assert (loaded.data, loaded.held_out) == (model.data, model.held_out)
    names = {file.name for file in (tmp_path / "authors").iterdir()}
    assert names == {"authors.json", "authors.npz"}


@pytest.mark.parametrize("name", ["authors.json", "authors.npz"])
@pytest.mark.parametrize("harm", ["gone", "cut", "other"])
def test_broken_model_is_named(name: str, harm: str, model: AuthorModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    file = tmp_path / name
    if harm == "gone":
        file.unlink()
    elif harm == "cut":
        file.write_bytes(file.read_bytes()[:100])
    else:
        file.write_text(json.dumps(["not", "this"]), "utf-8")
    with pytest.raises(AuthorsError, match=name):
        load(tmp_path)
