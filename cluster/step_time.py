"""How long a step of a recipe will take, from token rates that are given, or that an earlier run has measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from cluster.config import Recipe, differences, parse_recipe
from cluster.run_store import RunStore
from data.errors import FlemingError
from data.storage import Storage

_LAST_STEPS = 20
_SAME = ("model", "rollouts.dtype", "rollouts.actors", "rollouts.tensor_parallel", "learner.dtype", "learner.ranks")
"""Keys in which the run that rates are taken from must agree."""
_TELLS = (
    "data.",
    "rollouts.max_",
    "rollouts.temperature",
    "rollouts.cpu",
    "loop.samples_per_question",
    "loop.max_refill_rounds",
    "learner.lora",
    "learner.device",
    "learner.cpu",
    "learner.max_tokens_per_micro_batch",
    "learner.activation_checkpointing",
    "learner.offload",
    "grpo.kl",
    "grpo.overlong",
    "grpo.optimizer_steps_per_batch",
)
"""Starts of keys that change speed, length or signal by more than the arithmetic here follows."""
_UNREADABLE = (
    FlemingError,
    yaml.YAMLError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What reading a directory meets that is no run, a run of a version with other keys, or a damaged one."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Tokens of completions per second, and how many a step has.

    Attributes:
        rollout: sampled per second by all engines together, scoring included; 0 = not known.
        learner: trained on per second by all ranks together, every epoch counted; 0 = not known.
        sync_seconds: of one weight update.
        completion_tokens: mean length; 0 = not known, the recipe's limit counts.
        sampled_groups: groups sampled per question of a step, refills included.
        trained_share: of the sampled tokens, those that are trained on: groups without a signal are not.
        source: who says so.
        differs: keys in which the run measured differs so that its figures may mislead.
    """

    rollout: float
    learner: float = 0.0
    sync_seconds: float = 0.0
    completion_tokens: float = 0.0
    sampled_groups: float = 1.0
    trained_share: float = 1.0
    source: str = "given"
    differs: tuple[str, ...] = ()

    @property
    def by_phase(self) -> dict[str, float]:
        """Under the names of `step_seconds`."""
        return {"roll out": self.rollout, "learn": self.learner}


def measured_rates(recipe: Recipe) -> Rates | None:
    """Totals over the last steps of the run in ``run.storage`` that is most like ``recipe``, the latest among equals;
    None when there is none with the same model, precision and numbers of engines and ranks."""
    found = [(-len(rates.differs), started, rates) for started, rates in _measured(recipe)]
    return max(found, key=lambda one: one[:2])[2] if found else None


def _measured(recipe: Recipe) -> Iterator[tuple[str, Rates]]:
    """(when it started, its rates) of runs in the same storage; unreadable ones are passed over."""
    storage = Storage.open(recipe.run.storage)
    for name in storage.list():
        store = RunStore(storage.child(name))
        try:
            document = yaml.safe_load(store.storage.read("run.yaml"))
            rows = store.committed_metrics()[-_LAST_STEPS:]
            if not rows:
                continue
            last = rows[-1]["attempt"]  # a run may be resumed with other engines or lengths
            other = parse_recipe(store.recipe_of(last) or document["recipe"])
            if all(_value(other, key) == _value(recipe, key) for key in _SAME):
                rows = [row for row in rows if row["attempt"] == last]
                yield str(document["started_at"]), _rates(recipe, other, rows, store.storage.uri)
        except _UNREADABLE:
            continue


def _rates(recipe: Recipe, other: Recipe, rows: Sequence[Mapping[str, Any]], uri: str) -> Rates:
    """Rates of the run of ``other`` from its metrics. Sums, not medians: a step with many refills is as much a part of
    the run as one with none."""

    # A commit is written while the controller waits for the learner: its steps tell nothing about the learner's rate.
    loop = other.loop
    uncommitted = [row for row in rows if row["step"] % loop.checkpoint_every and row["step"] != loop.steps] or rows

    def column(name: str, rows: Sequence[Mapping[str, Any]] = rows) -> list[float]:
        values = [float(row[name]) for row in rows]
        if not all(math.isfinite(value) and value >= 0 for value in values):
            raise ValueError(f"{name} of {uri} is no amount")
        return values

    groups = [sum(counts) for counts in zip(column("rollout/groups"), column("rollout/failed_groups"), strict=True)]
    completions = [count * loop.samples_per_question for count in groups]
    lengths = column("rollout/completion_tokens_mean")
    sampled = sum(count * length for count, length in zip(completions, lengths, strict=True))
    trained = sum(column("learner/tokens"))
    if trained > 1.001 * sampled * other.grpo.epochs_per_batch or max(lengths) > other.rollouts.max_completion_tokens:
        raise ValueError(f"{uri} trained on more tokens than it sampled, or sampled more than it may")
    return Rates(
        rollout=sampled / sum(column("seconds/rollout")),
        learner=sum(column("learner/tokens", uncommitted)) / sum(column("seconds/learn", uncommitted)),
        sync_seconds=sum(column("seconds/sync")) / len(rows),
        completion_tokens=sampled / sum(completions),
        sampled_groups=sum(groups) / (len(rows) * loop.questions_per_step),
        trained_share=trained / (sampled * other.grpo.epochs_per_batch),
        source=f"measured by {uri}, last {len(rows)} steps",
        differs=tuple(key for key in differences(other, recipe) if key.startswith(_TELLS)),
    )


def _value(recipe: Recipe, key: str) -> Any:
    value: Any = recipe
    for part in key.split("."):
        value = getattr(value, part)
    return value


def completion_tokens(recipe: Recipe, rates: Rates) -> float:
    """Mean tokens of a completion: as measured, but not above the recipe's limit."""
    limit = recipe.rollouts.max_completion_tokens
    return min(rates.completion_tokens or limit, limit)


def step_seconds(recipe: Recipe, rates: Rates) -> dict[str, float]:
    """Seconds per phase of one step, evaluations and commits left out; phases without a rate are left out too."""
    loop = recipe.loop
    groups = loop.questions_per_step * rates.sampled_groups
    sampled = groups * loop.samples_per_question * completion_tokens(recipe, rates)
    tokens = {"roll out": sampled, "learn": sampled * rates.trained_share * recipe.grpo.epochs_per_batch}
    seconds = {phase: tokens[phase] / speed for phase, speed in rates.by_phase.items() if speed}
    return seconds | ({"publish weights": rates.sync_seconds} if rates.sync_seconds else {})
