"""Random search over a model's shape and rate, on Optuna: resumable, pruned, each trial a line.

    search("gru sane", SPACE, objective, trials=12, journal=Path("out/search.log"), seed=1)

``objective(number, settings, report)`` trains one model and returns its figure, the lower the
better; it calls ``report(step, figure)`` on its way, which raises ``Pruned`` where the trial is
worse than the median of those before it at the same step, and lets it through otherwise.

J. Bergstra, Y. Bengio, "Random search for hyper-parameter optimization", JMLR 2012.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

Pruned = optuna.TrialPruned
Report = Callable[[int, float], None]
Objective = Callable[[int, dict[str, Any], Report], float]

_WARMUP_TRIALS = 4  # trials that are never pruned: there is no median yet
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "interrupted",
}


@dataclass(frozen=True)
class Range:
    """Where a setting is drawn from: ``low`` to ``high``, whole numbers if both are."""

    low: float
    high: float
    log: bool = False

    def draw(self, trial: optuna.Trial, name: str) -> float:
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Trial:
    """A line of the search; ``figure`` is None if the trial was not completed."""

    number: int
    state: str  # "complete", "pruned", "failed" or "interrupted"
    settings: dict[str, Any]
    figure: float | None
    reported: dict[int, float]  # by step


def search(
    name: str,
    space: Mapping[str, Range],
    objective: Objective,
    *,
    trials: int,
    journal: Path,
    seed: int,
) -> list[Trial]:
    """Run trials until ``trials`` of them have ended, and return all, in their order.

    A killed search goes on from its journal; the trial that was cut off is drawn anew. What
    ``objective`` raises marks the trial as failed and ends the search.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=name,
        storage=JournalStorage(JournalFileBackend(str(journal))),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_WARMUP_TRIALS),
        load_if_exists=True,
    )
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    while len(study.get_trials(states=ended, deepcopy=False)) < trials:
        # A sampler begins at its seed each time it is made: one a trial, so that a search that
        # goes on after a kill draws what it would have drawn.
        done = len(study.get_trials(states=ended, deepcopy=False))
        study.sampler = optuna.samplers.RandomSampler(seed=seed + done)
        study.optimize(lambda trial: _run(trial, space, objective), n_trials=1)
    return [_describe(trial) for trial in study.get_trials(deepcopy=False)]


def _run(trial: optuna.Trial, space: Mapping[str, Range], objective: Objective) -> float:
    settings = {name: limits.draw(trial, name) for name, limits in space.items()}

    def report(step: int, figure: float) -> None:
        trial.report(figure, step)
        if trial.should_prune():
            raise Pruned

    return objective(trial.number, settings, report)


def _describe(trial: FrozenTrial) -> Trial:
    return Trial(
        trial.number,
        _STATES[trial.state],
        dict(trial.params),
        trial.value if trial.state is TrialState.COMPLETE else None,
        dict(trial.intermediate_values),
    )
