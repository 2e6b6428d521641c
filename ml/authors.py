"""Whose prose is this? Burrows's Delta and a classifier of authors, fitted on whole works.

model = fit(read_works(folder), load_split())
model.attribute(["..."])[0].author

``segments.held_out`` says which works it does not learn. An author with a single work is learned
in full and cannot be tested: he is there to draw texts away from the target (the author asked
about), and no accuracy counts him.

Sources: J. Burrows, "Delta: a measure of stylistic difference", Literary and Linguistic Computing
17(3), 2002, 267-287; E. Stamatatos, "On the robustness of authorship attribution based on
character n-gram features", Journal of Law and Policy 21(2), 2013, 421-439.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.multiclass import OneVsRestClassifier  # type: ignore[import-untyped]

from ml.corpus import Work, corpus_hash
from ml.quotation import save_arrays
from ml.results import write_text
from ml.segments import SEGMENT, held_out, plain, sample, shelves, target_of, unseen

_ARRAYS = ("idf", "weights", "bias", "mean", "deviation", "profiles")
_LISTS = ("target", "authors", "held_out", "data", "grams", "words")


class AuthorsError(Exception):
    """A corpus or a saved model that cannot be used: the message says which and why."""


@dataclass(frozen=True)
class Settings:
    """What shapes the classifier and Delta; chosen on the works that are not held out."""

    segment: int = SEGMENT
    per_author: int = 500  # training segments at most
    target_segments: int = 1000  # the same for the target
    ngrams: tuple[int, int] = (2, 4)  # characters
    features: int = 30_000  # the most frequent n-grams
    rarest: int = 5  # an n-gram of fewer segments is dropped
    c: float = 20.0  # inverse strength of the L2 penalty
    seed: int = 1799  # of the solver, which visits the segments in a random order
    words: int = 100  # Delta's: the most frequent ones
    mask: bool = True  # hide capitalised words


@dataclass(frozen=True)
class Attribution:
    """The likeliest author of a text, and everybody's probability."""

    author: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class AuthorModel:
    """Shapes: A authors, G n-grams, W words."""

    settings: Settings
    target: str
    authors: list[str]
    held_out: list[str]  # files
    data: str  # corpus_hash of the works it was fitted with
    grams: list[str]
    idf: NDArray[np.float32]  # (G)
    weights: NDArray[np.float32]  # (A, G)
    bias: NDArray[np.float32]  # (A)
    words: list[str]
    mean: NDArray[np.float64]  # (W) share of a segment's words
    deviation: NDArray[np.float64]  # (W)
    profiles: NDArray[np.float64]  # (A, W) mean z-scores of an author's segments

    def attribute(self, texts: Sequence[str]) -> list[Attribution]:
        """Return each text's author by the classifier, all authors being as likely beforehand."""
        if not texts:
            return []
        features = self._vectorizer.transform([plain(t, mask=self.settings.mask) for t in texts])
        likely = 1 / (1 + np.exp(-(features @ self.weights.T + self.bias)))  # each against all
        return [
            Attribution(
                self.authors[int(row.argmax())],
                float(row.max()),
                dict(zip(self.authors, row.tolist(), strict=True)),
            )
            for row in likely / likely.sum(axis=1, keepdims=True)
        ]

    def deltas(self, text: str) -> dict[str, float]:
        """Return Burrows's Delta of the text to each author.

        Delta is the mean over the W most frequent words of |z(text) - z(author)|; z is taken by
        the mean and deviation of the training segments, ``per_author`` at most. It falls
        with length, and 160 words are few for it: compare means over many texts of one length.
        """
        shares = _shares([plain(text, mask=self.settings.mask)], self.words)
        distances = np.abs((shares - self.mean) / self.deviation - self.profiles).mean(axis=1)
        return dict(zip(self.authors, distances.tolist(), strict=True))

    @cached_property
    def _vectorizer(self) -> TfidfVectorizer:
        places = {gram: place for place, gram in enumerate(self.grams)}
        vectorizer = _new_vectorizer(self.settings, vocabulary=places)
        vectorizer.idf_ = self.idf.astype(np.float64)
        return vectorizer

    def save(self, folder: Path) -> None:
        """Write ``authors.npz`` and ``authors.json``: figures and strings, no pickled objects."""
        save_arrays(folder / "authors.npz", **{name: getattr(self, name) for name in _ARRAYS})
        lists = {name: getattr(self, name) for name in _LISTS}
        text = json.dumps({"settings": asdict(self.settings), **lists}, ensure_ascii=False)
        write_text(folder / "authors.json", text + "\n")


def load(folder: Path) -> AuthorModel:
    """Read what ``AuthorModel.save`` wrote. Raises AuthorsError naming the file."""
    path = folder / "authors.json"
    try:
        lists = json.loads(path.read_text("utf-8"))
        settings = lists.pop("settings")
        settings["ngrams"] = tuple(settings["ngrams"])
        path = folder / "authors.npz"
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return AuthorModel(settings=Settings(**settings), **lists, **arrays)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, BadZipFile) as error:
        raise AuthorsError(f"{path}: not a saved author model ({error})") from error


def fit(
    works: Sequence[Work],
    split: Mapping[str, Iterable[str]],
    settings: Settings = Settings(),
) -> AuthorModel:
    """Learn the authors of the prose among ``works``, without the works held out.

    Raises AuthorsError if the target or any second author has no prose left, SplitError as
    ``target_of`` does.
    """
    target, hidden = target_of(works, split), held_out(works, split)
    segments: dict[str, list[str]] = {}
    for author, shelf in shelves(works).items():
        limit = settings.target_segments if author == target else settings.per_author
        kept = [work for work in shelf if work.file not in hidden]
        if chosen := sample(kept, limit, settings.segment):
            segments[author] = [plain(text, mask=settings.mask) for text in chosen]
    if target not in segments or len(segments) < 2:
        raise AuthorsError(f"the corpus leaves no prose to learn of {target} or of anybody else")

    vectorizer = _new_vectorizer(settings, max_features=settings.features, min_df=settings.rarest)
    features = vectorizer.fit_transform(text for own in segments.values() for text in own)
    # One regression an author: on training works it was better than one for all (multinomial).
    regression = LogisticRegression(
        C=settings.c,
        class_weight="balanced",
        solver="liblinear",
        dual=True,
        tol=1e-2,
        max_iter=200,
        random_state=settings.seed,
    )
    names = [author for author, own in segments.items() for _ in own]
    classifier = OneVsRestClassifier(regression).fit(features, names)
    weights = np.vstack([one.coef_ for one in classifier.estimators_])
    bias = np.concatenate([one.intercept_ for one in classifier.estimators_])
    if len(weights) == 1:  # of two authors the library fits the second only
        weights, bias = np.vstack([-weights, weights]), np.append(-bias, bias)

    authors = [str(name) for name in classifier.classes_]
    size = settings.per_author
    even = [text for own in segments.values() for text in own[:: -(-len(own) // size)]]
    words = _frequent_words(even, settings.words)
    shares = _shares(even, words)
    mean, deviation = shares.mean(axis=0), shares.std(axis=0)
    profiles = [((_shares(segments[a], words) - mean) / deviation).mean(axis=0) for a in authors]
    return AuthorModel(
        settings=settings,
        target=target,
        authors=authors,
        held_out=sorted(hidden),
        data=corpus_hash(works),
        grams=vectorizer.get_feature_names_out().tolist(),
        idf=vectorizer.idf_.astype(np.float32),
        weights=weights.astype(np.float32),
        bias=bias.astype(np.float32),
        words=words,
        mean=mean,
        deviation=deviation,
        profiles=np.array(profiles),
    )


def examine(model: AuthorModel, works: Sequence[Work], *, per_author: int = 60) -> dict[str, Any]:
    """Attribute the segments held out; at most ``per_author`` of each author but the target.

    Returns shares (0-1): ``accuracy`` of segments, ``mean_recall`` of authors, the target's
    ``recall`` and ``precision``, ``taken_for_target`` of the others' segments; ``authors`` with
    each one's segments and recall; ``confusion`` as ``{true: {named: segments}}``.
    """
    confusion: dict[str, Counter[str]] = {}
    length = model.settings.segment
    for author, texts in unseen(works, model.held_out, model.target, per_author, length).items():
        confusion[author] = Counter(found.author for found in model.attribute(texts))
    right = {author: named[author] for author, named in confusion.items()}
    sizes = {author: named.total() for author, named in confusion.items()}
    called = sum(named[model.target] for named in confusion.values())
    others = sum(sizes.values()) - sizes[model.target]
    recalls = {author: right[author] / sizes[author] for author in sizes}
    return {
        "accuracy": sum(right.values()) / sum(sizes.values()),
        "mean_recall": sum(recalls.values()) / len(recalls),
        "target": model.target,
        "recall": recalls[model.target],
        "precision": right[model.target] / max(called, 1),
        "taken_for_target": (called - right[model.target]) / max(others, 1),
        "authors": {a: {"segments": sizes[a], "recall": recalls[a]} for a in sizes},
        "untested": [author for author in model.authors if author not in sizes],
        "confusion": {author: dict(named.most_common()) for author, named in confusion.items()},
    }


def _new_vectorizer(settings: Settings, **options: Any) -> TfidfVectorizer:
    return TfidfVectorizer(
        analyzer="char",
        ngram_range=settings.ngrams,
        lowercase=False,
        sublinear_tf=True,
        dtype=np.float32,
        **options,
    )


def _frequent_words(texts: Sequence[str], count: int) -> list[str]:
    """Return the words of the highest mean share, masked ones left out."""
    total: Counter[str] = Counter()
    for text in texts:
        total.update(word for word in _words(text) if word != "X")
    return [word for word, _ in total.most_common(count)]


def _shares(texts: Sequence[str], words: Sequence[str]) -> NDArray[np.float64]:
    """Return each word's share of each text's words: (texts, words)."""
    counts = [Counter(_words(text)) for text in texts]
    return np.array([[c[word] / max(c.total(), 1) for word in words] for c in counts])


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)
