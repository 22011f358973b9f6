"""The dry run's seconds per step against a real run of another size, by the rates of a run before it."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from cluster.config import load_recipe
from cluster.step_time import measured_rates, step_seconds
from tests.integration import runs

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3000)]

STEPS = 10
SHORT = (
    "learner.ranks=1",
    f"loop.steps={STEPS}",
    f"loop.checkpoint_every={STEPS}",
    "loop.evaluation={every: 0, questions: 8, samples: 1}",
)
PHASES = {"roll out": "seconds/rollout", "learn": "seconds/learn", "publish weights": "seconds/sync"}


@pytest.mark.parametrize(
    ("recipe", "size", "other"),
    [
        ("recipes/quickstart.yaml", ("loop.questions_per_step=32",), ("loop.questions_per_step=64",)),
        (
            "recipes/smollm2-135m.yaml",
            ("loop.questions_per_step=4",),
            ("loop.questions_per_step=8",),
        ),
    ],
)
def test_a_run_of_another_size_takes_what_the_dry_run_says(
    tmp_path: Path, recipe: str, size: tuple[str, ...], other: tuple[str, ...]
) -> None:
    runs.finish(runs.command(tmp_path, "measured", *SHORT, *size, recipe=recipe), tmp_path / "a.log", timeout_s=1400)
    asked = load_recipe(runs.CHECKOUT / recipe, [f"run.storage={tmp_path}", *SHORT, *other])
    rates = measured_rates(asked)
    assert rates is not None and not rates.differs
    estimated = step_seconds(asked, rates)
    runs.finish(runs.command(tmp_path, "other", *SHORT, *other, recipe=recipe), tmp_path / "b.log", timeout_s=1400)
    rows = runs.store(tmp_path, "other").committed_metrics()
    measured = {phase: statistics.fmean(row[name] for row in rows) for phase, name in PHASES.items()}
    error = sum(estimated.values()) / sum(measured.values()) - 1
    runs.say(f"{recipe}: estimated {_seconds(estimated)}, measured {_seconds(measured)}, {error:+.1%}")
    assert abs(error) < 0.2


def _seconds(phases: dict[str, float]) -> str:
    listed = ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in phases.items())
    return f"{sum(phases.values()):.2f} s a step ({listed})"
