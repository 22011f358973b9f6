"""The two pictures of a run are drawn from whatever rows there are."""

from __future__ import annotations

import pytest

from cluster.curve import MEMORY, PHASES, cost_curve, learning_curve
from cluster.memory import ROLES

FULL = {
    "rollout/accuracy": 0.5,
    "rollout/format_rate": 0.9,
    "rollout/reward_mean": 0.6,
    "learner/entropy": 0.1,
    "learner/logprob_gap_mean": 1e-3,
    "seconds/rollout": 3.0,
    "seconds/learn": 2.0,
    "memory/learner_peak_mib": 2048.0,
}


BEFORE = {"step": 0, "eval/train_greedy": 0.2, "eval/train_greedy_low": 0.1, "eval/train_greedy_high": 0.3}


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"step": 1, **FULL}],
        [{"step": 1, **FULL}, {"step": 2, "seconds/learn": 1.0}],
        [BEFORE, {"step": 1, **FULL}],
        [{"step": 0}, {"step": 1, **FULL}],
    ],
)
def test_pictures(rows: list[dict[str, float]]) -> None:
    for picture in (learning_curve(rows, title="t", chance=0.25), cost_curve(rows, title="t")):
        assert picture.startswith(b"\x89PNG") and len(picture) > 5000


def test_what_is_drawn_exists() -> None:
    from cluster.monitoring.catalogue import METRICS

    assert set(MEMORY) <= set(ROLES)
    assert {f"seconds/{phase}" for phase in PHASES} <= set(METRICS)
