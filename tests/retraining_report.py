"""A report as a retraining stores it, for the tests of those who show it."""

from typing import Any

FIGURES = (
    ("preference_accuracy", None, 0.62, 0.55),
    ("bits_per_character", 1.779, 1.785, 1.815),
    ("repeated_4grams", 0.021, 0.019, 0.03),
    ("verbatim_under_80", 1.0, 0.99, 0.98),
    ("sentence_end", 0.97, 0.98, 0.95),
    ("attributed", 0.71, 0.74, 0.56),
)


def a_report(**changes: Any) -> dict[str, Any]:
    """Return the report of a retraining that passed every bar, with changes."""
    figures = [
        {"name": name, "before": before, "after": after, "bar": bar, "passed": True}
        for name, before, after, bar in FIGURES
    ]
    report = {
        "name": "pushkin-mini",
        "version": "1f0c",
        "verdict": "candidate",
        "reasons": [],
        "figures": figures,
        "votes": {"votes": 120, "users": 9, "liked": 70, "disliked": 50, "held_out": 24},
        "curves": {
            "sft": [[step, 3.1 - step / 100] for step in range(1, 81)],
            "preference": [[1, 0.7], [2, 0.61]],
        },
        "stories": [
            {"opening": f"Начало {n}.", "before": f"Прежде {n}.", "after": f"Теперь {n}."}
            for n in (1, 2, 3)
        ],
        "minutes": 12.5,
    }
    return report | changes
