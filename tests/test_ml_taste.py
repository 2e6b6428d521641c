"""The scripted reader's taste."""

from ml import taste

SHORT = "Шёл снег. Мы молчали. Он ушёл."
LONG = "Шёл снег, и мы молчали, пока он не ушёл со двора по старой дороге."


def test_sentences_are_measured_in_words() -> None:
    assert taste.sentence_length(SHORT) == 2
    assert taste.sentence_length(LONG) == 14
    assert taste.sentence_length("") == 0


def test_long_sentences_and_repetition_tire() -> None:
    assert taste.strain(SHORT) < taste.strain(LONG)
    assert taste.strain(LONG) < taste.strain(f"{LONG} {LONG}")


def test_less_tiring_half_is_liked_but_for_slips() -> None:
    strains = [float(n) for n in range(100)]
    assert taste.vote(strains, noise=0, seed=1) == [n < 50 for n in range(100)]
    slips = [
        a != b
        for a, b in zip(
            taste.vote(strains, noise=0.2, seed=1), [n < 50 for n in range(100)], strict=True
        )
    ]
    assert 5 < sum(slips) < 40
    assert taste.vote(strains, noise=0.2, seed=1) == taste.vote(strains, noise=0.2, seed=1)
