"""Packing documents into streams, and drawing batches from them."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.corpus import CorpusError
from ml.dataset import Mixture, Stage, pack
from tests import toy

LENGTH = 8
EVEN = [Stage(1.0, {"own": 0.5, "others": 0.5})]


def streams(own: int = 400, others: int = 300) -> dict[str, NDArray[np.uint16]]:
    """Streams in which a token tells its group and its place: own counts from 1000."""
    return {
        "own": np.arange(1000, 1000 + own, dtype=np.uint16),
        "others": np.arange(5000, 5000 + others, dtype=np.uint16),
    }


def mixture(
    stages: list[Stage] | None = None,
    *,
    groups: dict[str, NDArray[np.uint16]] | None = None,
    steps: int = 50,
    batch: int = 4,
    seed: int = 1,
) -> Mixture:
    return Mixture(
        groups or streams(), stages or EVEN, steps=steps, batch=batch, length=LENGTH, seed=seed
    )


def batches(source: Mixture, count: int) -> list[list[list[int]]]:
    return [source.next()[0].tolist() for _ in range(count)]


def test_pack_puts_an_end_of_text_behind_every_document() -> None:
    letters = toy.Letters(100)
    stream = pack(["абв", "", "г"], letters)
    assert stream.tolist() == [*letters.encode("абв"), 0, 0, *letters.encode("г"), 0]
    assert stream.dtype == np.uint16


def test_packed_documents_are_read_back_unchanged() -> None:
    tokenizer = toy.toy_tokenizer()
    documents = [text for *_, text in toy.WORKS]
    text = tokenizer.decode(pack(documents, tokenizer).tolist())
    assert text == "".join(document + "<|endoftext|>" for document in documents)


def test_pack_refuses_a_token_that_does_not_fit() -> None:
    letters = toy.Letters(2**20)
    assert pack(["\ufffe"], letters).tolist() == [2**16 - 1, 0]
    with pytest.raises(AssertionError, match="65536 does not fit"):
        pack(["\uffff"], letters)


def test_targets_are_the_inputs_shifted_by_one() -> None:
    ids, targets = mixture(batch=6).next()
    assert ids.shape == targets.shape == (6, LENGTH)
    assert ids.dtype == targets.dtype == np.int64
    # The streams count up by one, so a target is its input's successor.
    assert (targets == ids + 1).all()


@pytest.mark.parametrize("size", [2 * LENGTH + 2, 2 * LENGTH + 3, 10 * LENGTH, 10 * LENGTH + 5])
def test_pass_uses_each_chunk_once_before_any_again(size: int) -> None:
    source = mixture(
        [Stage(1.0, {"own": 1.0})], groups={"own": streams(own=size)["own"]}, steps=400, batch=1
    )
    for _ in range(5):  # passes
        seen: list[int] = []
        first = source.next()[0][0, 0] - 1000
        seen.append(int(first))
        # All chunks that lie as this one does, a last one needing a token to predict.
        whole = list(range(int(first) % LENGTH, size - LENGTH, LENGTH))
        seen += [int(source.next()[0][0, 0]) - 1000 for _ in whole[1:]]
        assert sorted(seen) == whole


def test_passes_begin_at_different_places() -> None:
    source = mixture(
        [Stage(1.0, {"own": 1.0})], groups={"own": streams()["own"]}, steps=1000, batch=1
    )
    phases = {int(source.next()[0][0, 0]) % LENGTH for _ in range(1000)}
    assert len(phases) > LENGTH // 2


def test_chunks_come_shuffled() -> None:
    starts = [rows[0][0] for rows in batches(mixture([Stage(1.0, {"own": 1.0})], batch=1), 20)]
    assert len({b - a for a, b in pairwise(starts)}) > 2  # in order they would all be equal


def test_weights_are_followed_by_stage() -> None:
    stages = [Stage(0.5, {"own": 0.2, "others": 0.8}), Stage(1.0, {"own": 3.0, "others": 1.0})]
    source = mixture(stages, steps=1000, batch=4)
    shares = []
    for _ in stages:
        groups = Counter(int(row[0]) < 5000 for _ in range(500) for row in source.next()[0])
        shares.append(groups[True] / groups.total())
    assert shares == pytest.approx([0.2, 0.75], abs=0.04)  # 4 standard errors of 2,000 draws


def test_group_outside_a_stage_is_not_drawn() -> None:
    source = mixture([Stage(0.5, {"own": 1.0}), Stage(1.0, {"others": 1.0})], steps=20)
    drawn = [{row[0] < 5000 for row in rows} for rows in batches(source, 20)]
    assert drawn == [{True}] * 10 + [{False}] * 10


def test_same_seed_gives_the_same_batches() -> None:
    assert batches(mixture(seed=3), 50) == batches(mixture(seed=3), 50)
    assert batches(mixture(seed=3), 5) != batches(mixture(seed=4), 5)


@pytest.mark.parametrize("steps", [0, 1, 25, 49])
def test_skip_is_as_many_batches_thrown_away(steps: int) -> None:
    stages = [Stage(0.5, {"own": 1.0, "others": 1.0}), Stage(1.0, {"own": 1.0})]
    skipped, walked = mixture(stages), mixture(stages)
    skipped.skip(steps)
    batches(walked, steps)
    assert skipped.step == walked.step == steps
    assert batches(skipped, 50 - steps) == batches(walked, 50 - steps)


def test_group_shorter_than_two_chunks_is_named() -> None:
    mixture(groups=streams(others=2 * LENGTH + 2))
    with pytest.raises(CorpusError, match=r"chunks of 8 tokens: others"):
        mixture(groups=streams(others=2 * LENGTH + 1))


def test_stages_that_end_too_early_are_refused() -> None:
    with pytest.raises(AssertionError, match=r"the last stage ends at 0\.9"):
        mixture([Stage(0.9, {"own": 1.0})])
