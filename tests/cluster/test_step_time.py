"""Seconds per step of a plan: from the run that is most alike, or from given rates."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

import pytest

from cluster.config import dump_recipe, load_recipe
from cluster.plan import dry_run_of
from cluster.run_store import RunStore
from cluster.step_time import Rates, measured_rates, step_seconds
from data.storage import Storage
from data.tables import rollout_table
from tests.cluster.test_sizing import RECIPES, override


def write_run(storage: Path, name: str, rows: list[dict[str, float]], *overrides: str) -> None:
    """A run directory with the metrics of its steps, started in the order of the names."""
    made = load_recipe(RECIPES / "quickstart.yaml", [f"run.storage={storage}", *overrides])
    store = RunStore(Storage.open(str(storage / name)))
    store.begin_attempt({"recipe": made.model_dump(mode="json")})
    document = f"started_at: '{name}'\nrecipe:\n" + textwrap.indent(dump_recipe(made), "  ")
    store.storage.write("run.yaml", document.encode())
    for step, row in enumerate(rows, 1):
        store.write_step(step, row, rollout_table([]))
    store.commit(step=len(rows), learner_checkpoint="c", controller_state={})


def measured_step(groups: int, trained_tokens: float, seconds: float) -> dict[str, float]:
    return {
        "rollout/groups": groups,
        "rollout/failed_groups": 1,
        "rollout/completion_tokens_mean": 20.0,
        "learner/tokens": trained_tokens,
        "seconds/rollout": seconds,
        "seconds/learn": 2 * seconds,
        "seconds/sync": 0.5,
    }


# Two steps of 64 questions x 8 samples: 64 + 96 groups sampled, a third of their tokens trained on.
MEASURED = [measured_step(63, 64 * 8 * 20 / 3, 10.0), measured_step(95, 96 * 8 * 20 / 3, 15.0)]


def test_an_earlier_run_of_the_same_kind_gives_the_rates(tmp_path: Path) -> None:
    """Its own steps come out again, and those of a recipe with other sizes in proportion."""
    base = load_recipe(RECIPES / "quickstart.yaml", [f"run.storage={tmp_path}"])
    assert measured_rates(base) is None
    write_run(tmp_path, "a", MEASURED)
    write_run(tmp_path, "b", [measured_step(1, 1.0, 1.0)], "rollouts.dtype=bfloat16")  # not comparable
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.yaml").write_text("{")
    write_run(tmp_path, "0", [*MEASURED, MEASURED[0] | {"seconds/learn": 500.0}], "loop.checkpoint_every=3")
    rates = measured_rates(base)
    assert rates is not None and rates.source == f"measured by {tmp_path / 'a'}, last 2 steps" and not rates.differs
    assert [rates.sampled_groups, rates.trained_share] == pytest.approx([1.25, 1 / 3])
    assert step_seconds(base, rates) == {
        "roll out": pytest.approx(12.5),
        "learn": pytest.approx(25.0),
        "publish weights": 0.5,
    }
    twice = override(base, "loop.questions_per_step=128", "grpo.epochs_per_batch=3")
    assert step_seconds(twice, rates) == {
        "roll out": pytest.approx(25.0),
        "learn": pytest.approx(150.0),
        "publish weights": 0.5,
    }
    (tmp_path / "a" / "attempts" / "attempt-01.json").write_text("null")
    committed = measured_rates(base)
    assert committed is not None and "last 3 steps" in committed.source and committed.learner == rates.learner
    shorter = override(base, "rollouts.max_completion_tokens=10")
    assert step_seconds(shorter, rates)["roll out"] == pytest.approx(6.25)


def test_rates_come_from_the_run_that_is_most_alike(tmp_path: Path) -> None:
    base = load_recipe(RECIPES / "quickstart.yaml", [f"run.storage={tmp_path}"])
    write_run(tmp_path, "a", MEASURED, "loop.questions_per_step=8", "grpo.optimizer.learning_rate=1e-5")
    write_run(tmp_path, "b", MEASURED, "data.questions.hpo.options=6")
    write_run(tmp_path, "c", [])
    rates = measured_rates(base)
    assert rates is not None and "/a, last 2 steps" in rates.source and not rates.differs
    longer = override(base, "data.questions.hpo.options=6", "rollouts.temperature=0.5")
    shown = dry_run_of(longer)[0]
    assert "/b, last 2 steps" in shown and "that run differs in rollouts.temperature: expect other figures" in shown


def test_a_resumed_run_counts_with_the_recipe_of_its_last_attempt(tmp_path: Path) -> None:
    base = load_recipe(RECIPES / "quickstart.yaml", [f"run.storage={tmp_path}"])
    write_run(tmp_path, "a", [row | {"seconds/rollout": 99.0} for row in MEASURED], "rollouts.actors=2")
    assert measured_rates(base) is None
    store = RunStore(Storage.open(str(tmp_path / "a")))
    assert store.begin_attempt({"recipe": base.model_dump(mode="json")}) == 2
    for step, row in enumerate(MEASURED, 3):
        store.write_step(step, row, rollout_table([]))
    store.commit(step=4, learner_checkpoint="c", controller_state={})
    rates = measured_rates(base)
    assert rates is not None and rates.source.endswith("last 2 steps")
    assert step_seconds(base, rates)["roll out"] == pytest.approx(12.5)
    assert measured_rates(override(base, "rollouts.actors=2")) is None


@pytest.mark.parametrize(
    "damage",
    [
        {"rollout/groups": 0, "rollout/failed_groups": 0},
        {"seconds/rollout": 0.0},
        {"learner/tokens": math.nan},
        {"seconds/learn": math.inf},
        {"rollout/groups": "many"},
        {"rollout/groups": None},
        {"seconds/learn": -1.0},
        {"learner/tokens": 10**400},
        {"learner/tokens": 64 * 8 * 999},
        {"rollout/completion_tokens_mean": 999.0},
    ],
)
def test_runs_with_damaged_figures_are_passed_over(tmp_path: Path, damage: dict[str, Any]) -> None:
    base = load_recipe(RECIPES / "quickstart.yaml", [f"run.storage={tmp_path}"])
    write_run(tmp_path, "b", [measured_step(64, 100.0, 1.0) | damage])
    assert measured_rates(base) is None
    write_run(tmp_path, "a", MEASURED)
    rates = measured_rates(base)
    assert rates is not None and "/a, last 2 steps" in rates.source


def test_given_rates_say_what_they_assume() -> None:
    base = load_recipe(RECIPES / "quickstart.yaml")
    assert step_seconds(base, Rates(rollout=100.0)) == {"roll out": 64 * 8 * 24 / 100}
    shown = dry_run_of(base, tokens_per_second=100.0)[0]
    assert "24 tokens per completion, 1.00 groups sampled per question of a step, 100% of their tokens trained" in shown
