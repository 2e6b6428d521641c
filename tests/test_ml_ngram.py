"""N-grams against distributions worked by hand and against slow, obvious counting."""

import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ml.dataset import pack
from ml.evaluate import bits_per_character
from ml.ngram import NGram, Smoothing
from tests import toy

SMOOTHINGS: list[Smoothing] = ["witten-bell", "kneser-ney"]
Ngram = tuple[int, ...]


class Slow:
    """The same models from dictionaries, a probability at a time."""

    def __init__(
        self, order: int, vocabulary: int, smoothing: Smoothing, documents: list[list[int]]
    ) -> None:
        self.order, self.vocabulary, self.smoothing = order, vocabulary, smoothing
        counts: Counter[Ngram] = Counter()
        before: dict[Ngram, set[int]] = defaultdict(set)
        for document in documents:
            text = [0, *document, 0]
            for end in range(2, len(text) + 1):
                for begin in range(max(0, end - order), end):
                    ngram = tuple(text[begin:end])
                    counts[ngram] += 1
                    if begin > 0:
                        before[ngram].add(text[begin - 1])
        self.counts: dict[int, dict[Ngram, int]] = defaultdict(dict)
        for ngram, count in counts.items():
            continues = smoothing == "kneser-ney" and len(ngram) < order and before[ngram]
            self.counts[len(ngram)][ngram] = len(before[ngram]) if continues else count

    def discount(self, length: int, count: int) -> float:
        have = Counter(self.counts[length].values())
        n1, n2, n3, n4 = (have[times] for times in (1, 2, 3, 4))
        fixed = [0.5, 1, 1.5]
        if n1 and n2 and n3 and n4:
            y = n1 / (n1 + 2 * n2)
            found = [1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
            fixed = found if min(found) > 0 else fixed
        return fixed[min(count, 3) - 1]

    def probability(self, context: Ngram, token: int) -> float:
        """p(token | context), the context already cut to order - 1 tokens of one document."""
        below = self.probability(context[1:], token) if context else 1 / self.vocabulary
        length = len(context) + 1
        row = {
            ngram[-1]: count
            for ngram, count in self.counts[length].items()
            if ngram[:-1] == context
        }
        if not row:
            return below
        count, total = row.get(token, 0), sum(row.values())
        if self.smoothing == "witten-bell":
            return (count + len(row) * below) / (total + len(row))
        left = sum(self.discount(length, c) for c in row.values()) / total
        taken = self.discount(length, count) if count else 0
        return (count - taken) / total + left * below

    def table(self, ids: list[int]) -> NDArray[np.float64]:
        """Return probabilities (T, V) of what follows each of ``ids``."""
        rows = []
        for place in range(len(ids)):
            seen = ids[: place + 1]
            beginnings = [i for i, token in enumerate(seen) if token == 0]
            document = seen[beginnings[-1] :] if beginnings else seen
            context = tuple(document[max(0, len(document) + 1 - self.order) :])
            rows.append([self.probability(context, token) for token in range(self.vocabulary)])
        return np.array(rows)


def stream_of(documents: list[list[int]]) -> NDArray[np.uint16]:
    return np.array([token for document in documents for token in [*document, 0]], np.uint16)


def documents_of(seed: int, vocabulary: int, lengths: list[int]) -> list[list[int]]:
    """Draw documents in which pairs repeat; the last tokens of the vocabulary never occur."""
    random = np.random.default_rng(seed)
    drawn = [random.geometric(0.35, length) for length in lengths]
    return [np.clip(tokens, 1, vocabulary - 3).tolist() for tokens in drawn]


def probabilities(model: NGram, ids: list[int]) -> NDArray[np.float64]:
    logits, loss = model(torch.tensor([ids]))
    assert loss is None
    return logits[0].double().exp().numpy()


# The last three begin alike: those beginnings keep their counts in Kneser-Ney.
DOCUMENTS = [
    *documents_of(1, vocabulary=9, lengths=[40, 1, 2, 25, 60]),
    [1, 2, 3, 1],
    [1, 2],
    [1, 2],
]


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_figures_equal_slow_counting(order: int, smoothing: Smoothing) -> None:
    model = NGram(order, 9, smoothing).fit(stream_of(DOCUMENTS))
    slow = Slow(order, 9, smoothing, DOCUMENTS)
    # A text of the corpus, a beginning, an end, tokens never seen, and a document in the middle.
    for ids in ([0, *DOCUMENTS[3]], [0], [3, 0], [8, 8, 1, 2, 7, 1], [2, 1, 0, 1, 2, 1, 0, 0, 1]):
        assert probabilities(model, ids) == pytest.approx(slow.table(ids), rel=1e-4)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_every_context_has_a_distribution(order: int, smoothing: Smoothing) -> None:
    model = NGram(order, 9, smoothing).fit(stream_of(DOCUMENTS))
    ids = torch.from_numpy(np.random.default_rng(2).integers(0, 9, (4, 200)))
    logits, _ = model(ids)
    assert logits.shape == (4, 200, 9)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()
    assert logits.exp().sum(-1).numpy() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("order", [1, 3, 5])
def test_quick_score_equals_the_dense_one(order: int, smoothing: Smoothing) -> None:
    tokenizer = toy.toy_tokenizer()
    stream = pack([text for *_, text in toy.WORKS[:4]], tokenizer)
    model = NGram(order, len(tokenizer), smoothing).fit(stream)
    unseen = torch.from_numpy(pack([toy.ROAD], tokenizer)[:120].astype(np.int64)).view(2, 60)
    ids, targets = unseen[:, :-1], unseen[:, 1:]
    logits, loss = model(ids, targets)
    dense = logits.gather(-1, targets[..., None])[..., 0]
    torch.testing.assert_close(model.score(ids, targets), dense, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss, -dense.mean())


# «я пью чай», «чай пью я», «я ем»: the end is 0, я 1, пью 2, чай 3, ем 4; token 5 never occurs.
# Predicted: я 3, пью 2, чай 2, ем 1, the end 3; 11 in all, 5 of the 6 tokens.
TEA = [[1, 2, 3], [3, 2, 1], [1, 4]]


def test_witten_bell_by_hand() -> None:
    unigram = NGram(1, 6).fit(stream_of(TEA))
    assert probabilities(unigram, [0])[0] == pytest.approx(
        [(count + 5 / 6) / (11 + 5) for count in (3, 3, 2, 2, 1, 0)]
    )
    bigram = NGram(2, 6).fit(stream_of(TEA))
    # я is followed by пью, ем and an end, once each: 3 + 3 below the line.
    drinks, eats = (2 + 5 / 6) / 16, (1 + 5 / 6) / 16
    after_i = probabilities(bigram, [1])[0]
    assert after_i[2] == pytest.approx((1 + 3 * drinks) / 6)
    assert after_i[4] == pytest.approx((1 + 3 * eats) / 6)
    assert after_i[5] == pytest.approx(3 * (5 / 6 / 16) / 6)
    # A document begins with я twice and with чай once, two kinds.
    assert probabilities(bigram, [0])[0, 1] == pytest.approx((2 + 2 * (3 + 5 / 6) / 16) / (3 + 2))


def test_kneser_ney_by_hand() -> None:
    # Bigrams: 0 я twice, all the others once (0 чай, я пью, я ем, я 0, пью чай, пью я, чай пью,
    # чай 0, ем 0), so the discounts are 1/2 for one and 1 for two. Before я stand the beginning
    # and пью, before пью я and чай, before чай the beginning and пью, before ем я only, before
    # the end чай, я, ем: 10 in all, whose discounts are 1, 1, 1, 1/2 and 3/2.
    model = NGram(2, 6, "kneser-ney").fit(stream_of(TEA))
    left = 5 / 10 / 6
    one, two = 0.5 / 10 + left, 1 / 10 + left
    after_i = probabilities(model, [1])[0]
    assert after_i[2] == pytest.approx(0.5 / 3 + 1.5 / 3 * two)
    assert after_i[4] == pytest.approx(0.5 / 3 + 1.5 / 3 * one)
    assert after_i[3] == pytest.approx(1.5 / 3 * two)
    assert probabilities(model, [0])[0, 1] == pytest.approx(1 / 3 + 1.5 / 3 * two)
    # ем was followed by one token only, the unseen token by none.
    assert probabilities(model, [4])[0, 0] == pytest.approx(0.5 + 0.5 * (1.5 / 10 + left))
    assert probabilities(model, [5])[0] == pytest.approx(
        [1.5 / 10 + left, two, two, two, one, left]
    )


def test_discounts_are_estimated_from_a_larger_text() -> None:
    documents = documents_of(3, vocabulary=60, lengths=[3000])
    random = np.random.default_rng(4)
    documents[0] = [int(1 + random.zipf(1.4) % 57) for _ in documents[0]]
    slow = Slow(2, 60, "kneser-ney", documents)
    assert slow.discount(2, 1) not in (0.5, 1, 1.5)
    model = NGram(2, 60, "kneser-ney").fit(stream_of(documents))
    for token in (1, 2, 3, 40):
        found = probabilities(model, [token])[0]
        assert found == pytest.approx(slow.table([token])[0], rel=1e-4)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_context_does_not_cross_into_another_document(smoothing: Smoothing) -> None:
    model = NGram(4, 9, smoothing).fit(stream_of(DOCUMENTS))
    alone, behind = probabilities(model, [0, 1, 2]), probabilities(model, [2, 1, 1, 0, 1, 2])
    assert np.array_equal(alone, behind[3:])
    swapped = NGram(4, 9, smoothing).fit(stream_of([*DOCUMENTS[2:], *DOCUMENTS[:2]]))
    assert np.array_equal(probabilities(swapped, [0, 1, 2]), alone)
    assert swapped.entries() == model.entries()


def test_contexts_of_a_large_vocabulary_do_not_collide() -> None:
    # Two contexts whose numbers differ only above 32 bits must stay two.
    random = np.random.default_rng(5)
    stream = np.append(random.integers(1, 65_000, 30_000), 0).astype(np.uint16)
    model = NGram(4, 65_536).fit(stream)
    ids = torch.from_numpy(stream[:-1].astype(np.int64))[None]
    following = torch.from_numpy(stream[1:].astype(np.int64))[None]
    assert model.score(ids, following).exp().mean() > 0.6  # nearly every context occurs once
    assert model.score(ids, following.roll(7)).exp().mean() < 0.01


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_longer_context_predicts_held_out_text_better(smoothing: Smoothing) -> None:
    tokenizer = toy.toy_tokenizer()
    stream = pack([toy.EVENING, toy.LETTER, toy.MANOR], tokenizer)
    figures = [
        bits_per_character(
            NGram(order, len(tokenizer), smoothing).fit(stream), tokenizer, [toy.ROAD], context=64
        )
        for order in (1, 2)
    ]
    assert figures[1] < figures[0] - 0.1


def test_count_of_entries_is_all_the_ngrams_there_are() -> None:
    model = NGram(3, 6).fit(stream_of(TEA))
    text = [[0, *document, 0] for document in TEA]
    grams = {tuple(t[i : i + n]) for t in text for n in (2, 3) for i in range(len(t) + 1 - n)}
    assert model.entries() == 5 + len(grams)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_saved_model_comes_back_the_same(smoothing: Smoothing, tmp_path: Path) -> None:
    model = NGram(3, 9, smoothing).fit(stream_of(DOCUMENTS))
    model.save(tmp_path / "ngram.npz")
    again = NGram.load(tmp_path / "ngram.npz")
    assert (again.order, again.vocabulary, again.smoothing) == (3, 9, smoothing)
    assert again.entries() == model.entries()
    ids = [0, *DOCUMENTS[3]]
    assert np.array_equal(probabilities(again, ids), probabilities(model, ids))
    assert [file.name for file in tmp_path.iterdir()] == ["ngram.npz"]


def test_token_outside_the_vocabulary_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="token 6 of 6"):
        NGram(2, 6).fit(np.array([6, 0], np.uint16))
    with pytest.raises(AssertionError, match="fitted first"):
        NGram(2, 6)(torch.tensor([[1]]))


def test_uniform_corpus_costs_what_it_must() -> None:
    documents = [[token] for token in range(1, 65)]
    model = NGram(1, 65).fit(stream_of(documents))
    _, loss = model(torch.tensor([[0]]), torch.tensor([[7]]))
    assert loss.item() == pytest.approx(-math.log((1 + 65 / 65) / (128 + 65)), rel=1e-6)
