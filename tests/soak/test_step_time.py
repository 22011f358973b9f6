"""The dry run's seconds per step against a real run of another size, by the rates of a run before it."""

from __future__ import annotations

import statistics
from dataclasses import replace
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
    ("recipe", "questions", "more"),
    [("recipes/quickstart.yaml", 64, ()), ("recipes/smollm2-135m.yaml", 8, ("warm_up.steps=12",))],
)
def test_a_run_of_another_size_takes_what_the_dry_run_says(
    tmp_path: Path, recipe: str, questions: int, more: tuple[str, ...]
) -> None:
    """Estimated from a run of half the questions per step.

    How many groups carry a signal is up to chance and to what the policy has learnt by then, most of all in ten steps
    of eight groups. So the bound is for the refills and the trained share that came; what the dry run says without
    knowing them is printed beside it.
    """
    half, whole = (f"loop.questions_per_step={number}" for number in (questions // 2, questions))
    settings = (*SHORT, *more)
    runs.finish(runs.command(tmp_path, "half", *settings, half, recipe=recipe), tmp_path / "a.log", timeout_s=1400)
    asked = load_recipe(runs.CHECKOUT / recipe, [f"run.storage={tmp_path}", *settings, whole])
    said = measured_rates(asked)
    assert said is not None and "/half" in said.source and not said.differs
    runs.finish(runs.command(tmp_path, "whole", *settings, whole, recipe=recipe), tmp_path / "b.log", timeout_s=1400)
    rows = runs.store(tmp_path, "whole").committed_metrics()[:-1]  # the last one waits for the commit
    measured = {phase: statistics.fmean(row[name] for row in rows) for phase, name in PHASES.items()}
    groups = [row["rollout/groups"] + row["rollout/failed_groups"] for row in rows]
    k = asked.loop.samples_per_question
    sampled = sum(n * k * row["rollout/completion_tokens_mean"] for n, row in zip(groups, rows, strict=True))
    came = sum(row["learner/tokens"] for row in rows) / sampled
    known = replace(said, sampled_groups=statistics.fmean(groups) / questions, trained_share=came)
    runs.say(f"{recipe}, measured {_seconds(measured)}")
    for name, rates in (("by the dry run", said), ("with the refills and the trained share that came", known)):
        estimated = step_seconds(asked, rates)
        error = sum(estimated.values()) / sum(measured.values()) - 1
        runs.say(f"{name} {_seconds(estimated)}, {error:+.1%}")
    assert abs(error) < 0.2


def _seconds(phases: dict[str, float]) -> str:
    listed = ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in phases.items())
    return f"{sum(phases.values()):.2f} s a step ({listed})"
