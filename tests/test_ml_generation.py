"""Texts drawn from a model: a seed gives its text, the end of a text ends it."""

import torch
from torch import Tensor, nn

from ml.engine import EchoEngine, Sampling
from ml.generation import tell, write
from tests import toy


def test_same_seed_gives_the_same_text_and_leaves_the_global_state_alone() -> None:
    tokenizer = toy.toy_tokenizer()
    model = toy.toy_model(len(tokenizer))
    state = torch.get_rng_state()
    texts = [
        write(model, tokenizer, "Старый дом", tokens=20, context=16, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]
    assert all(text.startswith("Старый дом") for text in texts)
    assert torch.equal(torch.get_rng_state(), state)


class Counting(nn.Module):
    """Predicts the token after the last one, and remembers the windows it saw."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.windows: list[int] = []

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> tuple[Tensor, None]:
        assert targets is None
        self.windows.append(ids.shape[1])
        following = (ids + 1) % self.vocabulary
        return nn.functional.one_hot(following, self.vocabulary).float() * 100, None


def test_end_of_a_text_ends_it_and_the_window_stays_within_the_context() -> None:
    tokenizer = toy.toy_tokenizer()
    model = Counting(len(tokenizer))
    last = len(tokenizer) - 6
    prompt = str(tokenizer.decode([last]))
    assert tokenizer.encode(prompt) == [last]
    text = write(model, tokenizer, prompt, tokens=50, context=4, seed=0, sampling=Sampling())
    assert text == prompt + str(tokenizer.decode(list(range(last + 1, len(tokenizer)))))
    assert model.windows == [2, 3, 4, 4, 4, 4]


async def test_told_stories_come_in_the_order_of_their_openings() -> None:
    openings = [f"Начало номер {number}." for number in range(5)]
    stories = await tell(EchoEngine(), openings, seed=3)
    assert len(stories) == 5
    assert all(stories)
    assert not any(story.startswith("Начало") for story in stories)
