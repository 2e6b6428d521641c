"""The small models of chapters 1 to 3 behind our models' one signature.

    model = build("recurrent", vocabulary=2048, cell="lstm", embedding=256, hidden=512)
    logits, loss = model(ids, targets)

``recurrent`` is an RNN, a GRU or an LSTM, over characters, words or BPE as its tokenizer is;
``linear`` sees a fixed window of tokens. The small GPT is in ``ml.gpt``, n-grams in ``ml.ngram``.

Shapes: B sequences, T tokens, V vocabulary, E embedding, H hidden.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

CELLS: dict[str, Any] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class Recurrent(nn.Module):
    """Elman's RNN, a GRU or an LSTM: the state after a token predicts the next one."""

    def __init__(
        self,
        vocabulary: int,
        *,
        cell: str,
        embedding: int,
        hidden: int,
        layers: int = 1,
        dropout: float = 0.0,
        head: int = 0,
        tied: bool = False,
    ) -> None:
        """``head`` counts the hidden layers (H, ReLU) between the state and the prediction.

        ``tied`` predicts with the embedding's own matrix (Press & Wolf 2017), after a projection.
        """
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embedding)
        between = dropout if layers > 1 else 0.0
        self.cells = CELLS[cell](embedding, hidden, layers, dropout=between, batch_first=True)
        self.drop = nn.Dropout(dropout)
        steps: list[nn.Module] = []
        for _ in range(head):
            steps += [nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout)]
        if tied:
            steps.append(nn.Linear(hidden, embedding))
        self.head = nn.Sequential(*steps)
        self.predict = nn.Linear(embedding if tied else hidden, vocabulary)
        if tied:
            nn.init.normal_(self.embed.weight, std=embedding**-0.5)
            self.predict.weight = self.embed.weight

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Map ids (B, T) to logits (B, T, V) and, given targets (B, T), their mean loss in nats."""
        states, _ = self.cells(self.drop(self.embed(ids)))
        return _score(self.predict(self.head(self.drop(states))), targets)


class Linear(nn.Module):
    """A fixed window: the last tokens' embeddings side by side, then linear layers.

    Y. Bengio et al., "A neural probabilistic language model", JMLR 2003.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        window: int,
        embedding: int,
        hidden: int,
        layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embedding)
        self.window = nn.Conv1d(embedding, hidden, window)  # one linear map of the whole window
        steps: list[nn.Module] = []
        for _ in range(layers - 1):
            steps += [nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, hidden)]
        self.head = nn.Sequential(*steps, nn.ReLU(), nn.Dropout(dropout))
        self.predict = nn.Linear(hidden, vocabulary)

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Map ids (B, T) to logits (B, T, V) and, given targets (B, T), their mean loss in nats."""
        embedded = self.embed(ids).transpose(1, 2)  # (B, E, T)
        before = functional.pad(embedded, (self.window.kernel_size[0] - 1, 0))
        return _score(self.predict(self.head(self.window(before).transpose(1, 2))), targets)


FAMILIES: dict[str, type[nn.Module]] = {"recurrent": Recurrent, "linear": Linear}


def build(family: str, vocabulary: int, *, seed: int, **shape: Any) -> nn.Module:
    """Build a model of a family with random weights, the same for the same seed."""
    torch.manual_seed(seed)
    return FAMILIES[family](vocabulary, **shape)


def _score(logits: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if targets is None:
        return logits, None
    return logits, functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
