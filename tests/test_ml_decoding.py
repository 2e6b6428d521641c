"""Settings out of their ranges are named; a story ends where a sentence ends."""

import math
import re

import pytest

from ml.decoding import PRESETS, RANGES, Sampling, chosen, trim


@pytest.mark.parametrize(
    ("text", "trimmed"),
    [
        ("Он вышел. Шёл дождь.", "Он вышел. Шёл дождь."),
        ("Он вышел. Шёл", "Он вышел."),
        ("Он вышел! Шёл", "Он вышел!"),
        ("Кто там? Шёл", "Кто там?"),
        ("Он умолк… Шёл", "Он умолк…"),
        ("Он умолк... Шёл", "Он умолк..."),
        ("Что?.. Нет", "Что?.."),
        ("Как?! Нет", "Как?!"),
        ("Он сказал: «Пора». И вышел", "Он сказал: «Пора»."),
        ("«Пора ехать!» И вышел", "«Пора ехать!»"),
        ("«Он молвил: «Пора!»» И вышел", "«Он молвил: «Пора!»»"),
        ('"Пора." И вышел', '"Пора."'),
        ("(Так было.) И вышел", "(Так было.)"),
        ("Он вышел.\n— Куда", "Он вышел."),
        ("Он вышел.\n\n", "Он вышел."),
        ("Он вышел.   ", "Он вышел."),
        (" Он вышел. Шёл", " Он вышел."),
        ("— Пора! — сказал он", "— Пора!"),
        ("Он заплатил 3.50 рубля. Потом", "Он заплатил 3.50 рубля."),
        ("Он приехал в 1830 г. в город", "Он приехал в 1830 г."),
        ("Он заплатил 3.50 рубля и", "Он заплатил 3.50 рубля и"),
        ("Он вышел, и шёл", "Он вышел, и шёл"),
        ("Он вышел, и шёл \n", "Он вышел, и шёл"),
        ("", ""),
        (" \n", ""),
    ],
)
def test_unfinished_last_sentence_is_cut_off(text: str, trimmed: str) -> None:
    assert trim(text) == trimmed


@pytest.mark.parametrize("text", ["Он вышел. Шёл", "Что?.. Нет", "и шёл ", "«Пора!» — «Да"])
def test_trimming_twice_changes_nothing(text: str) -> None:
    assert trim(trim(text)) == trim(text)


def test_presets_are_todays_decoding_and_a_bolder_one() -> None:
    pushkin, bold = PRESETS["pushkin"], PRESETS["bold"]
    assert pushkin == Sampling()
    assert (pushkin.temperature, pushkin.top_p, pushkin.top_k, pushkin.max_tokens) == (
        0.8,
        0.9,
        60,
        320,
    )
    assert (pushkin.min_p, pushkin.repetition_penalty) == (0, 1)  # off
    assert (bold.temperature, bold.top_p, bold.top_k) == (0.9, 0.92, 200)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0),
        ("temperature", -1.0),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", True),
        ("temperature", "0.8"),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_k", -1),
        ("top_k", 60.0),
        ("max_tokens", 0),
        ("max_tokens", None),
        ("min_p", -0.1),
        ("min_p", 1.5),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", -1.2),
    ],
)
def test_what_cannot_be_is_named(name: str, value: object) -> None:
    with pytest.raises(
        ValueError, match=rf"^{name} must be a .*number from .*: {re.escape(repr(value))}$"
    ):
        chosen({name: value}, Sampling())


def test_ends_of_the_ranges_are_allowed() -> None:
    for name, ends in RANGES.items():
        for end in ends:
            assert getattr(chosen({name: end}, Sampling()), name) == end


def test_a_jobs_own_settings_take_the_place_of_the_defaults() -> None:
    default = Sampling(max_tokens=50, top_k=7)
    # A later bot may send what this worker does not know.
    assert chosen({"top_p": 0.5, "mood": "sad"}, default) == Sampling(
        max_tokens=50, top_k=7, top_p=0.5
    )
