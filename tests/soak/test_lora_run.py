"""A real run with an adapter and a KL term: after every update of merged weights the engines sample what is learnt."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration import runs

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]

STEPS = 5


def test_merged_updates_keep_the_sampled_and_the_learnt_policy_one(tmp_path: Path) -> None:
    """A short warm-up of the tiny policy, then LoRA on it with a KL term, GSPO's ratio and two epochs per batch."""
    short = ("loop.evaluation.every=0", "loop.evaluation.samples=1", "loop.evaluation.questions=16")
    base = ("warm_up.steps=60", "loop.steps=1", "loop.stop_after_barren_steps=30", *short)
    runs.finish(runs.command(tmp_path, "base", *base), tmp_path / "base.log", timeout_s=700)
    variant = (
        f"model.path={runs.store(tmp_path, 'base').storage.path('models/warm_up')}",
        "model.tiny=null",
        "warm_up.steps=0",
        f"loop.steps={STEPS}",
        "learner.lora={rank: 8, alpha: 16}",
        "grpo.kl={coefficient: 0.05, estimator: k3}",
        "grpo.epochs_per_batch=2",
        "grpo.aggregation=sequence_mean",
        "grpo.advantage=standardised",
        "grpo.optimizer.learning_rate=5e-3",
        "loop.stop_after_barren_steps=30",
        *short,
    )
    runs.finish(runs.command(tmp_path, "lora", *variant), tmp_path / "lora.log", timeout_s=700)
    rows = runs.store(tmp_path, "lora").committed_metrics()
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    gaps = [row["learner/logprob_gap_mean"] for row in rows]
    divergences = [row["learner/kl_reference"] for row in rows]
    runs.say(f"log-probability gap by step {[f'{gap:.1e}' for gap in gaps]}")
    runs.say(f"divergence from the reference by step {[f'{value:.4f}' for value in divergences]}")
    runs.say(f"seconds under the reference {[round(row['seconds/learner_reference'], 2) for row in rows]}")
    assert max(gaps) < 1e-5
    assert max(divergences[1:]) > 1e-4, "the policy has left the reference"
    assert {row["learner/optimizer_steps"] for row in rows} == {2.0}
