"""The two judges of a text that are fitted on a corpus: its authors and its quotations.

    judges = load(folder, works, split) or fit(folder, works, split)
    score(text, index=judges.quotations, authors=judges.authors)

They are kept in a folder until the corpus or the split changes.
"""

from pathlib import Path
from typing import NamedTuple

from ml import authors, corpus
from ml.corpus import Work
from ml.quotation import QuotationIndex
from ml.segments import held_out

FOLDER = Path("out/authors")
_QUOTATIONS = "quotations.npz"


class Judges(NamedTuple):
    """Who would have written it, and what of it stands in the corpus."""

    authors: authors.AuthorModel
    quotations: QuotationIndex


def open_folder(folder: Path) -> Judges:
    """Load what a folder holds, of whatever corpus. Raises AuthorsError, OSError."""
    return Judges(authors.load(folder), QuotationIndex.load(folder / _QUOTATIONS))


def load(folder: Path, works: list[Work], split: dict[str, list[str]]) -> Judges | None:
    """Return the judges of these works, if the folder has them."""
    if not ((folder / "authors.json").exists() and (folder / _QUOTATIONS).exists()):
        return None
    model = authors.load(folder)
    hidden = sorted(held_out(works, split))
    if (model.data, model.held_out) != (corpus.corpus_hash(works), hidden):
        return None
    return Judges(model, QuotationIndex.load(folder / _QUOTATIONS))


def fit(works: list[Work], split: dict[str, list[str]]) -> Judges:
    """Learn from the works that no split holds out: a minute or two."""
    model = authors.fit(works, split)
    # Verse too may be quoted. What no model trains on cannot be.
    index = QuotationIndex.build(w.text for w in works if corpus.split_of(w, split) == "train")
    return Judges(model, index)


def save(judges: Judges, folder: Path) -> None:
    """Keep the judges in a folder; one that is cut off is as if it were not there."""
    judges.quotations.save(folder / _QUOTATIONS)
    judges.authors.save(folder)  # last: its presence says that all is there
