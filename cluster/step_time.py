"""How long a step of a recipe will take, from token rates that are given, or that an earlier run has measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from cluster.config import Recipe, parse_recipe
from cluster.run_store import RunStore
from data.errors import FlemingError
from data.storage import Storage

_LAST_STEPS = 20
_SAME = ("model", "rollouts.dtype", "rollouts.actors", "rollouts.tensor_parallel", "learner.dtype", "learner.ranks")


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Completion tokens per second: sampled by all engines together, and learnt from by all ranks together; 0 = not
    known. ``completion_tokens``: mean length, 0 = not known. ``source``: who says so."""

    rollout: float
    learner: float = 0.0
    sync_seconds: float = 0.0
    completion_tokens: float = 0.0
    source: str = "given"

    @property
    def by_phase(self) -> dict[str, float]:
        """Under the names of `step_seconds`."""
        return {"roll out": self.rollout, "learn": self.learner}


def measured_rates(recipe: Recipe) -> Rates | None:
    """Medians over the last steps of the latest run in ``run.storage`` with the same model, precision and numbers of
    engines and ranks; None when there is none."""
    candidates = []
    for started, store in _runs_like(recipe):
        rows = store.committed_metrics()[-_LAST_STEPS:]
        if rows:
            candidates.append((started, store.storage.uri, rows))
    if not candidates:
        return None
    _, uri, rows = max(candidates, key=lambda found: found[0])

    def median(name: str) -> float:
        return statistics.median(float(row[name]) for row in rows)

    return Rates(
        rollout=median("rollout/tokens_per_second"),
        learner=median("learner/tokens_per_second"),
        sync_seconds=median("seconds/sync"),
        completion_tokens=median("rollout/completion_tokens_mean"),
        source=f"measured by {uri}",
    )


def _runs_like(recipe: Recipe) -> Iterator[tuple[str, RunStore]]:
    """(when it started, its store) of runs in the same storage that are comparable; unreadable ones are passed over."""
    storage = Storage.open(recipe.run.storage)
    for name in storage.list():
        store = RunStore(storage.child(name))
        try:
            document = yaml.safe_load(store.storage.read("run.yaml"))
            other = parse_recipe(document["recipe"])
            if all(_value(other, key) == _value(recipe, key) for key in _SAME):
                yield str(document["started_at"]), store
        except (FlemingError, yaml.YAMLError, KeyError, TypeError):
            continue  # no run, a damaged one, or one of a version with other keys


def _value(recipe: Recipe, key: str) -> Any:
    value: Any = recipe
    for part in key.split("."):
        value = getattr(value, part)
    return value


def step_seconds(recipe: Recipe, rates: Rates) -> dict[str, float]:
    """Seconds per phase of one step without refills; phases without a rate are left out."""
    loop = recipe.loop
    length = rates.completion_tokens or recipe.rollouts.max_completion_tokens
    tokens = loop.questions_per_step * loop.samples_per_question * length
    seconds = {phase: tokens / speed for phase, speed in rates.by_phase.items() if speed}
    return seconds | ({"publish weights": rates.sync_seconds} if rates.sync_seconds else {})
