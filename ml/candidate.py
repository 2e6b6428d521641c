"""From votes to a candidate: phases in a work folder, each of which is done once.

    made = make(parent, votes, texts, judges, config, Path("data/retrain/7"), tell)
    made.verdict, made.figures, made.version

sft: LoRA on liked stories among the base texts. preference: the same matrices learn the votes.
gate: parent and candidate are measured alike. publish: into the registry. Killed, the same call
goes on with the phase that was under way. No database here: ml.retrain has it.
"""

import asyncio
import json
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ml import gate, registry, results, votes
from ml.engine import Sampling
from ml.engine_torch import TorchEngine
from ml.evaluate import bits_per_character
from ml.finetune import FinetuneConfig, finetune
from ml.gate import Bars
from ml.generation import tell
from ml.judges import Judges
from ml.models import load
from ml.preference import PreferenceConfig, StoppedError, accuracy, prefer, rewards
from ml.registry import Version
from ml.scoring import score, summarise
from ml.votes import Selection, VotesError

Tell = Callable[[str, dict[str, Any]], bool]  # (phase, how far it is) -> False: stop

_KEPT = ("repetition", "unquoted", "ends", "attributed")
_NAMES = ("repeated_4grams", "verbatim_under_80", "sentence_end", "attributed")


@dataclass(frozen=True)
class CandidateConfig:
    """What one retraining needs to be repeated, beside its parent, its votes and its texts."""

    cap: int = votes.CAP  # votes of one reader
    held_out: float = 0.2  # share of the openings whose votes only judge
    mixed: float = 1.0  # characters of base texts for each character of liked stories
    openings: int = 24  # written by parent and candidate, to be judged
    tokens: int = 200  # of each of those stories
    trial: float = 0.0  # share of the stories that a candidate gets that passes; 0: all
    seed: int = 1799
    sft: FinetuneConfig = field(
        default_factory=lambda: FinetuneConfig(
            seed=1799, window=512, batch=8, rows=8, rate=3e-4, rank=16, validate_every=0.5
        )
    )
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
    bars: Bars = field(default_factory=Bars)


@dataclass(frozen=True)
class BaseTexts:
    """What a candidate must not forget: to mix in, and to be measured by."""

    train: Sequence[str]
    validation: Sequence[str]
    openings: Sequence[str]


@dataclass(frozen=True)
class Made:
    """A published candidate and what it measures; ``reasons`` are the bars it misses."""

    version: Version
    lines: list[gate.Line]
    reasons: list[str]
    stories: list[dict[str, str]]  # opening, before, after
    curves: dict[str, list[list[float]]]


def read_config(recipe: str) -> CandidateConfig:
    """Read a recipe's JSON: what differs from the defaults. Raises ValueError saying what."""
    try:
        given = json.loads(recipe)
        parts = CandidateConfig()
        inner = {
            name: type(getattr(parts, name))(**{**asdict(getattr(parts, name)), **given.pop(name)})
            for name in ("sft", "preference", "bars")
            if name in given
        }
        return CandidateConfig(**given, **inner)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"the retraining's recipe: {error}") from error


def make(
    parent: Version,
    selection: Selection,
    base: BaseTexts,
    judges: Judges,
    config: CandidateConfig,
    work: Path,
    tell_: Tell,
    *,
    root: Path = registry.ROOT,
) -> Made:
    """Return the candidate.

    Raises VotesError, StoppedError, FinetuneError, RegistryError, GenerationError.
    """
    learnt, held_out = votes.split(selection.votes, config.held_out, config.seed)
    folder = registry.open_version(parent)
    # A completion begins with its own space, comma or line break, as the model wrote it.
    liked = [vote.prompt + vote.completion for vote in learnt if vote.liked]
    if not liked or len(liked) == len(learnt):
        raise VotesError("with some votes held out, the others are all of one kind", 1)
    documents = _mix(liked, base.train, config)
    adapter = _sft(folder, documents, base.validation, config, work / "sft", tell_)
    rows = votes.pairs(learnt) if config.preference.loss == "dpo" else votes.unpaired(learnt)
    adapter = prefer(
        folder,
        adapter,
        rows,
        config.preference,
        work / "preference",
        lambda line: tell_("preference", line),
    )
    merged = work / "merged"
    if not merged.is_dir():
        part = work / "merged.part"
        shutil.rmtree(part, ignore_errors=True)
        registry.write_merged(adapter, folder, part)
        part.rename(merged)
    _stop_unless(tell_("gate", {"step": 0, "steps": 2}))
    before = _measured(folder, base, judges, config, work / "before.json")
    _stop_unless(tell_("gate", {"step": 1, "steps": 2}))
    after = _measured(merged, base, judges, config, work / "after.json")
    judged = votes.unpaired(held_out)
    found = rewards(folder, adapter, judged, config.preference.length)
    after["preference_accuracy"] = accuracy(found, [row["label"] for row in judged])
    likes = sum(row["label"] for row in judged)
    lines = gate.judge(before, after, config.bars, likes=likes, dislikes=len(judged) - likes)
    stories = [
        {"opening": opening, "before": one, "after": other}
        for opening, one, other in zip(
            base.openings, before["stories"], after["stories"], strict=False
        )
    ]
    _stop_unless(tell_("publish", {"step": 0, "steps": 1}))
    meta = {
        "parent": f"{parent.name}/{parent.version}",
        "config": asdict(config),
        "votes": votes.report(selection),
        "data_sha256": votes.digest(selection.votes),
        "commit": results.commit(),
        "figures": gate.table(lines),
        "bits_per_character": {"validation": after["bits_per_character"]},
    }
    version = registry.publish(adapter, parent.name, meta, root)
    return Made(version, lines, gate.reasons(lines), stories, _curves(work))


def _mix(liked: Sequence[str], texts: Sequence[str], config: CandidateConfig) -> list[str]:
    """Return the liked stories and as many characters of the base's texts, drawn by the seed."""
    wanted = config.mixed * sum(map(len, liked))
    mixed, size = list(liked), 0
    for text in random.Random(config.seed).sample(list(texts), len(texts)):
        if size >= wanted:
            break
        mixed.append(text)
        size += len(text)
    return mixed


def _sft(
    folder: Path,
    documents: Sequence[str],
    validation: Sequence[str],
    config: CandidateConfig,
    work: Path,
    tell_: Tell,
) -> Path:
    told: dict[str, Any] = {"step": 0}

    def progress(line: dict[str, Any]) -> None:
        told.update(line)

    result = work / "adapter"
    if result.is_dir():
        return result
    _stop_unless(tell_("sft", told))
    made = finetune(
        config.sft,
        str(folder),
        documents,
        validation,
        work / "run",
        should_stop=lambda: not tell_("sft", dict(told)),  # at every step, not at every line
        progress=progress,
    )
    _stop_unless(not made.stopped)
    assert made.adapter is not None, "the retraining's recipe trains no LoRA"
    shutil.copytree(made.adapter, part := work / "adapter.part", dirs_exist_ok=True)
    part.rename(result)
    return result


def _measured(
    folder: Path, base: BaseTexts, judges: Judges, config: CandidateConfig, file: Path
) -> dict[str, Any]:
    """Return the figures of a model and what it writes; measured once."""
    if file.exists():
        known: dict[str, Any] = json.loads(file.read_text("utf-8"))
        return known
    loaded = load(folder)
    bits = bits_per_character(
        loaded.model, loaded.tokenizer, base.validation, context=loaded.context
    )
    openings = base.openings[: config.openings]
    sampling = Sampling(max_tokens=config.tokens)
    engine = TorchEngine(str(folder))
    stories = asyncio.run(tell(engine, openings, seed=config.seed, sampling=sampling))
    scores = [score(text, index=judges.quotations, authors=judges.authors) for text in stories]
    summary = summarise(scores)
    figures = {
        "preference_accuracy": None,
        "bits_per_character": bits,
        **{name: summary[key] for name, key in zip(_NAMES, _KEPT, strict=True)},
        "stories": stories,
    }
    results.write_text(file, json.dumps(figures, ensure_ascii=False) + "\n")
    return figures


def _curves(work: Path) -> dict[str, list[list[float]]]:
    """Return the losses by step of both trainings."""
    curves = {}
    for name, file in (("sft", work / "sft/run"), ("preference", work / "preference")):
        lines = map(json.loads, (file / "metrics.jsonl").read_text("utf-8").splitlines())
        curves[name] = [[line["step"], line["loss"]] for line in lines if "loss" in line]
    return curves


def _stop_unless(going: bool) -> None:
    if not going:
        raise StoppedError


def report(made: Made, selection: Selection, minutes: float, verdict: str) -> Mapping[str, Any]:
    """Return what the admin is shown, as JSON."""
    return {
        "name": made.version.name,
        "version": made.version.version,
        "verdict": verdict,
        "reasons": made.reasons,
        "figures": gate.table(made.lines),
        "votes": votes.report(selection),
        "curves": made.curves,
        "stories": made.stories[:3],
        "minutes": round(minutes, 1),
    }
