"""Evaluation inside a run: fixed subsets, answered greedily on the way and sampled as well before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actors.config import RolloutConfig
from cluster.config import EvaluationConfig
from cluster.drawing import QuestionDrawer
from data.records import Question
from data.sources.hpo import QuestionSplits
from data.wire import Sampler, SamplingSpec, Scorer
from evaluation.accuracy import EvaluationResult, evaluate

EVALUATION_DRAW = -1
"""Draw number of every evaluation: training draws count from 0, so no evaluation shares its seeds, and each evaluation
of a run asks with the same ones."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """Questions that are asked again and again, under a name that stands in the metrics (``eval/<name>_greedy``)."""

    name: str
    questions: tuple[Question, ...]


def fixed_sets(splits: QuestionSplits, config: EvaluationConfig, *, seed: int) -> list[EvaluationSet]:
    """Some training questions (does RL teach what it rewards?) and some held-out ones (does it carry over?)."""
    sets = []
    for name in ("train", "held_out"):
        questions: Sequence[Question] = getattr(splits, name)
        if questions:
            chosen = QuestionDrawer(questions, seed=seed).draw(min(config.questions, len(questions)))
            sets.append(EvaluationSet(name=name, questions=tuple(question for question, _ in chosen)))
    return sets


async def evaluate_sets(
    sets: Sequence[EvaluationSet], sampler: Sampler, scorer: Scorer, rollouts: RolloutConfig, *, samples: int
) -> dict[str, float]:
    """Greedy accuracy and format rate of every set; with ``samples`` above 0 also of that many sampled answers.

    Keys are ``eval/<set>_greedy``, ``eval/<set>_sampled``, ``eval/<set>_format``, the ends of the 95 % intervals,
    ``..._low`` and ``..._high``, and ``eval/<set>_unverified``, the groups without a verdict. No value is NaN.

    Raises:
        EngineError: more than a tenth of a set got no verdict.
    """
    figures: dict[str, float] = {}
    for one in sets:
        greedy = await _ask(one, sampler, scorer, rollouts, temperature=0.0, k=1)
        figures |= _with_interval(f"eval/{one.name}_greedy", greedy)
        figures[f"eval/{one.name}_format"] = greedy.format.rate
        figures[f"eval/{one.name}_unverified"] = float(len(greedy.unverified))
        if samples:
            sampled = await _ask(one, sampler, scorer, rollouts, temperature=rollouts.temperature, k=samples)
            figures |= _with_interval(f"eval/{one.name}_sampled", sampled)
            figures[f"eval/{one.name}_format"] = sampled.format.rate
            figures[f"eval/{one.name}_unverified"] += float(len(sampled.unverified))
    return figures


async def _ask(
    one: EvaluationSet, sampler: Sampler, scorer: Scorer, rollouts: RolloutConfig, *, temperature: float, k: int
) -> EvaluationResult:
    sampling = SamplingSpec(temperature=temperature, max_tokens=rollouts.max_completion_tokens)
    return await evaluate(one.questions, sampler, scorer, k=k, sampling=sampling, draw=EVALUATION_DRAW)


def _with_interval(name: str, result: EvaluationResult) -> dict[str, float]:
    low, high = result.interval
    return {name: result.accuracy.rate, f"{name}_low": low, f"{name}_high": high}
