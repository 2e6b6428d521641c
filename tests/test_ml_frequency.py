"""Counting words, lemmas and tokens: what a word is, equal samples, curves, lengths."""

from collections import Counter
from itertools import pairwise

import pytest

from ml import frequency
from ml.frequency import count_words, cut_windows, draw_sample, histogram, lemmas, measure, thin
from tests import toy

TEXTS = [toy.EVENING, toy.LETTER, toy.MANOR, toy.ROAD]


def test_words_are_lower_case_letters_with_inner_hyphens_and_no_digits_or_signs() -> None:
    found = list(frequency.words(["— Кто-то «шёл» из 3-го полка; l'ami…", "Чудо-", "N_5"]))
    assert found == ["кто-то", "шел", "из", "го", "полка", "l", "ami", "чудо", "n"]


def test_both_spellings_of_yo_are_one_word_and_one_lemma() -> None:
    assert len(set(frequency.words(["Ещё еще ЕЩЁ"]))) == 1
    assert len(set(lemmas(["тёплой теплой теплою"]))) == 1


def test_forms_of_a_word_are_one_lemma() -> None:
    assert list(lemmas(["Лошади лошадей", "человек людьми"])) == ["лошадь"] * 2 + ["человек"] * 2


def test_lemmas_are_as_many_as_words_and_never_more_distinct() -> None:
    words, found = list(frequency.words(TEXTS)), list(lemmas(TEXTS))
    assert len(found) == len(words)
    assert len(set(found)) < len(set(words))


def test_sample_has_exactly_the_words_asked_for() -> None:
    available = count_words(TEXTS)
    for size in (1, 37, 100, available):
        assert count_words(draw_sample(TEXTS, size, seed=1)) == size


def test_sample_is_of_whole_paragraphs_but_for_the_last() -> None:
    paragraphs = {line for text in TEXTS for line in text.split("\n") if line.strip()}
    sample = draw_sample(TEXTS, 100, seed=1)
    assert set(sample[:-1]) <= paragraphs
    assert any(paragraph.startswith(sample[-1]) for paragraph in paragraphs)
    assert len(sample) == len(set(sample))


def test_sample_of_everything_holds_every_word_as_often_as_the_texts() -> None:
    everything = draw_sample(TEXTS, count_words(TEXTS), seed=4)
    assert Counter(frequency.words(everything)) == Counter(frequency.words(TEXTS))


def test_sample_depends_on_its_seed_alone() -> None:
    assert draw_sample(TEXTS, 60, seed=1) == draw_sample(TEXTS, 60, seed=1)
    assert draw_sample(TEXTS, 60, seed=1) != draw_sample(TEXTS, 60, seed=2)


def test_sample_larger_than_the_texts_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="a sample of 10000 words from texts of"):
        draw_sample(TEXTS, 10_000, seed=1)


def test_frequent_units_reach_the_threshold_and_their_share_is_of_the_distinct() -> None:
    found = measure("aaaabbbccd", threshold=3)
    assert found == {
        "total": 10,
        "distinct": 4,
        "frequent": 2,
        "share_frequent": 0.5,
        "rank_frequency": [(1, 4), (2, 3), (3, 2), (4, 1)],
    }


def test_nothing_to_count_is_no_error() -> None:
    assert measure([], threshold=10)["share_frequent"] == 0
    assert thin([]) == []


def test_curve_is_thinned_evenly_in_log_and_keeps_its_ends() -> None:
    frequencies = [100_000 // rank for rank in range(1, 20_001)]
    curve = thin(frequencies)
    assert len(curve) <= 300
    assert curve[0] == (1, 100_000)
    assert curve[-1] == (20_000, 5)
    assert all(frequency == frequencies[rank - 1] for rank, frequency in curve)
    steps = [b / a for (a, _), (b, _) in pairwise(curve) if a > 200]
    assert max(steps) < 1.06  # as many points between 200 and 400 as between 2,000 and 4,000


@pytest.mark.parametrize("largest", [1, 7, 29, 30, 31, 999, 3999, 12_345])
def test_round_edges_hold_every_length_in_some_dozens_of_bins(largest: int) -> None:
    edges = frequency.round_edges(largest)
    assert edges[0] == 0
    assert edges[-2] <= largest < edges[-1] or largest < edges[1]
    assert len(edges) <= 32
    assert sum(histogram([0, largest], edges)) == 2
    assert str(edges[1]).rstrip("0") in {"1", "2", "5"}


def test_histogram_counts_by_left_closed_bins() -> None:
    assert histogram([0, 9, 10, 19, 20], [0, 10, 20]) == [2, 3]  # the last bin holds its end


def test_every_text_begins_a_window_and_its_last_one_is_short() -> None:
    assert cut_windows([5, 8, 0, 3], window=4) == [4, 1, 4, 4, 3]


def test_windows_hold_all_tokens() -> None:
    lengths = [1, 2, 3, 511, 512, 513, 2000]
    windows = cut_windows(lengths, 512)
    assert sum(windows) == sum(lengths)
    assert max(windows) == 512
