"""Real ZeRO-3 ranks over gloo: the gradient does not depend on how a batch is spread over them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from data.low_rank import merged_weights
from data.wire import TrainSequence, TrainShard, WeightUpdate
from learner.batching import plan_shards
from learner.config import GrpoConfig, KlConfig, LearnerConfig, LoraConfig, OptimizerConfig
from learner.loss import LossStats, grpo_loss
from learner.process import worker_environment
from tests.integration.learner_rank import RankJob, run_ranks
from tests.learner.tiny import train_sequences, write_tiny_model

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

LEARNER = LearnerConfig(device="cpu", cpu_threads=1)
GRPO = GrpoConfig(optimizer=OptimizerConfig(learning_rate=1e-3, max_grad_norm=0.0))
SEQUENCES = train_sequences(8, seed=3)


@pytest.fixture(scope="module", autouse=True)
def cpu_accelerator() -> Iterator[None]:
    """The fork server inherits the environment of this process when it starts."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in worker_environment(LEARNER).items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


def trained(
    folder: Path,
    model_dir: str,
    shards: tuple[TrainShard, ...],
    *,
    grpo: GrpoConfig = GRPO,
    gradients: bool = False,
    learner: LearnerConfig = LEARNER,
    resume: bool = False,
) -> dict[str, Any]:
    job = RankJob(
        folder=str(folder),
        model_dir=model_dir,
        shards=shards,
        learner=learner,
        grpo=grpo,
        gradients=gradients,
        resume=resume,
    )
    return run_ranks(job)


def unpacked(buckets: list[Any]) -> dict[str, torch.Tensor]:
    """The weights in published buckets."""
    return {
        slot.name: torch.from_numpy(flat[slot.offset : slot.offset + slot.nbytes])
        .view(torch.float32)
        .reshape(slot.shape)
        for slots, flat in buckets
        for slot in slots
    }


def by_hand(shares: list[list[int]]) -> tuple[TrainShard, ...]:
    """Shards with these sequences per rank, two to a micro-batch, padded with empty ones to equal counts."""
    cut = [[tuple(SEQUENCES[i] for i in share[at : at + 2]) for at in range(0, len(share), 2)] for share in shares]
    count = max(len(batches) for batches in cut)
    return tuple(TrainShard(micro_batches=tuple(b + [()] * (count - len(b)))) for b in cut)


def reference_gradients(model_dir: str, sequences: list[TrainSequence]) -> dict[str, torch.Tensor]:
    """The same objective with plain transformers, one unpadded sequence at a time, in fp64."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float64)
    for row in sequences:
        ids = torch.tensor([row.prompt_token_ids + row.token_ids])
        logp = torch.log_softmax(model(ids).logits[0], dim=-1)
        start = len(row.prompt_token_ids)
        current = torch.stack([logp[start + t - 1, token] for t, token in enumerate(row.token_ids)]).unsqueeze(0)
        loss, _ = grpo_loss(
            current,
            torch.tensor([row.sampled_logprobs], dtype=torch.float64),
            None,
            torch.tensor([row.advantage], dtype=torch.float64),
            torch.tensor([row.coefficient], dtype=torch.float64),
            torch.ones_like(current),
            GRPO,
        )
        loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    "shares",
    [
        pytest.param([[0, 1, 2, 3, 4, 5, 6, 7]], id="1x8"),
        pytest.param([[0, 1, 2, 3], [4, 5, 6, 7]], id="2x4"),
        pytest.param([[0, 1], [2, 3], [4, 5], [6, 7]], id="4x2"),
        pytest.param([[0, 1, 2, 3, 4, 5, 6], [7]], id="unequal 7+1"),
    ],
)
def test_gradient_does_not_depend_on_the_ranks(tmp_path: Path, model_dir: str, shares: list[list[int]]) -> None:
    expected = reference_gradients(model_dir, SEQUENCES)
    got = trained(tmp_path, model_dir, by_hand(shares), gradients=True)["gradients"]
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        assert scale > 0, name
        torch.testing.assert_close(got[name].double(), gradient, rtol=0, atol=1e-5 * scale, msg=name)


def reference_weights(model_dir: str, steps: list[list[TrainSequence]], grpo: GrpoConfig) -> dict[str, torch.Tensor]:
    """Several optimiser steps on one batch with plain torch: the proximal policy is the one before the first step."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=grpo.optimizer.learning_rate, betas=(0.9, 0.95), weight_decay=0
    )

    def logprobs(row: TrainSequence) -> torch.Tensor:
        ids = torch.tensor([row.prompt_token_ids + row.token_ids])
        logits = model(ids).logits[0, len(row.prompt_token_ids) - 1 : -1]
        return torch.log_softmax(logits, dim=-1)[range(len(row.token_ids)), list(row.token_ids)]

    with torch.no_grad():
        proximal = [[logprobs(row) for row in step] for step in steps]
    for step, before in zip(steps, proximal, strict=True):
        optimizer.zero_grad()
        total = torch.zeros(())
        for row, old in zip(step, before, strict=True):
            ratio = torch.exp(logprobs(row) - old)
            weight = torch.exp(old - torch.tensor(row.sampled_logprobs)).clamp(max=grpo.max_importance_weight)
            clipped = ratio.clamp(1 - grpo.clip_low, 1 + grpo.clip_high)
            total = total - (weight * torch.minimum(ratio * row.advantage, clipped * row.advantage)).sum() / len(step)
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), grpo.optimizer.max_grad_norm)
        optimizer.step()
    return {name: p.detach() for name, p in model.named_parameters()}


def test_optimizer_steps_per_batch_keep_one_proximal_policy(tmp_path: Path, model_dir: str) -> None:
    """Two ranks, two optimiser steps, activation checkpointing, clipping; the buckets hold the new weights."""
    optimizer = OptimizerConfig(learning_rate=3e-3, max_grad_norm=0.5, eps=1e-8)
    grpo = GrpoConfig(optimizer=optimizer, optimizer_steps_per_batch=2)
    shards = plan_shards(SEQUENCES, ranks=2, max_tokens_per_micro_batch=40, optimizer_steps=2)
    learner = LEARNER.model_copy(update={"activation_checkpointing": True})
    result = trained(tmp_path, model_dir, shards, grpo=grpo, learner=learner)
    assert result["steps"] == 2
    assert result["stats"].as_metrics()["ratio_mean"] != pytest.approx(1.0, abs=1e-4)

    expected = reference_weights(model_dir, [SEQUENCES[:4], SEQUENCES[4:]], grpo)
    before = reference_weights(model_dir, [], grpo)
    got = unpacked(result["buckets"])
    assert got.keys() == expected.keys()  # the tied output layer travels once
    for name, weight in expected.items():
        assert not torch.equal(weight, before[name]), name
        # Adam divides by the gradient's own size, so tiny gradients may differ by a part of the rate, not the weights.
        assert (got[name] - weight).abs().mean().item() < 0.02 * optimizer.learning_rate, name
    for slots, flat in result["buckets"]:
        assert flat.nbytes <= 40_000 or len(slots) == 1


# A large epsilon makes AdamW's step a smooth function of the gradient: what is compared are then not signs of noise.
SMOOTH = OptimizerConfig(learning_rate=0.05, eps=0.3, max_grad_norm=0.0)
VARIANT = GrpoConfig(
    optimizer=SMOOTH,
    aggregation="token_mean",
    ratio="sequence",
    clip_low=0.05,
    clip_high=0.08,
    importance_weights="token_mask",
    min_importance_weight=0.3,
    max_importance_weight=5.0,
    kl=KlConfig(coefficient=0.5, estimator="k2"),
    entropy_coefficient=0.02,
    epochs_per_batch=2,
    optimizer_steps_per_batch=2,
)


def reference_variant(model_dir: str, grpo: GrpoConfig) -> tuple[dict[str, torch.Tensor], LossStats]:
    """`VARIANT` with plain transformers and plain AdamW in fp64, row by row, the whole batch on one process."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float64)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=grpo.optimizer.learning_rate, betas=(0.9, 0.95), eps=grpo.optimizer.eps, weight_decay=0
    )

    def scores(row: TrainSequence) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.tensor([row.prompt_token_ids + row.token_ids])
        logp = torch.log_softmax(model(ids).logits[0, len(row.prompt_token_ids) - 1 : -1], dim=-1)
        return logp[range(len(row.token_ids)), list(row.token_ids)].unsqueeze(0), -(logp.exp() * logp).sum(-1)[None]

    with torch.no_grad():
        before = [scores(row)[0] for row in SEQUENCES]  # both the proximal policy and the reference
    total = LossStats()
    for _ in range(grpo.epochs_per_batch):
        for part in (range(4), range(4, 8)):
            optimizer.zero_grad()
            weight = 1.0 / sum(len(SEQUENCES[i].token_ids) for i in part)
            for i in part:
                row = SEQUENCES[i]
                current, entropy = scores(row)
                loss, stats = grpo_loss(
                    current,
                    torch.tensor([row.sampled_logprobs], dtype=torch.float64),
                    before[i],
                    torch.tensor([row.advantage], dtype=torch.float64),
                    torch.tensor([weight], dtype=torch.float64),
                    torch.ones_like(current),
                    grpo,
                    reference_logprobs=before[i],
                    entropy=entropy,
                )
                loss.backward()
                total += stats
            optimizer.step()
    return {name: p.detach() for name, p in model.named_parameters()}, total


@pytest.mark.parametrize(("ranks", "bound"), [(1, 200), (2, 40)])
def test_variants_do_not_depend_on_ranks_packing_and_micro_batches(
    tmp_path: Path, model_dir: str, ranks: int, bound: int
) -> None:
    """GSPO, token mean, a mask, KL to a ZeRO-3 copy, an entropy bonus, two epochs of two steps; and its resume."""
    shards = plan_shards(
        SEQUENCES, ranks=ranks, max_tokens_per_micro_batch=bound, optimizer_steps=2, aggregation="token_mean"
    )
    result = trained(tmp_path, model_dir, shards, grpo=VARIANT, resume=ranks == 2)
    expected, stats = reference_variant(model_dir, VARIANT)
    before, _ = reference_variant(model_dir, VARIANT.model_copy(update={"epochs_per_batch": 0}))
    assert result["steps"] == (8 if ranks == 2 else 4)
    got = unpacked(result["buckets"])
    assert got.keys() == expected.keys()
    for name, weight in expected.items():
        moved = (weight - before[name]).abs().max().item()
        assert moved > 1e-4, name
        torch.testing.assert_close(got[name].double(), weight, rtol=0, atol=2e-4 * moved + 1e-7, msg=name)
    own = result["stats"]
    assert own.masked > 0 and own.clipped > 0 and own.kl_reference > 1e-3
    if ranks == 1:
        assert own.kl_reference == pytest.approx(stats.kl_reference, rel=1e-3)
        assert (own.masked, own.clipped, own.tokens) == (stats.masked, stats.clipped, stats.tokens)
    else:
        assert_resumed(result)


def assert_resumed(result: dict[str, Any]) -> None:
    """A policy from a checkpoint does to the next batch, bit for bit, what the one that went on does."""
    (stats, buckets), (stats_again, buckets_again) = result["went on"], result["resumed"]
    assert stats == stats_again and stats.kl_reference > 0
    one, other = unpacked(buckets), unpacked(buckets_again)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not all(torch.equal(one[name], weight) for name, weight in unpacked(result["buckets"]).items())


def test_an_adapter_learns_and_travels_merged_or_alone(tmp_path: Path, model_dir: str) -> None:
    """LoRA on two ranks: the base stays, merged weights are the policy, the base is the reference, a resume goes on."""
    from transformers import AutoModelForCausalLM

    grpo = GrpoConfig(optimizer=OptimizerConfig(learning_rate=1e-2), kl=KlConfig(coefficient=0.1), epochs_per_batch=2)
    learner = LEARNER.model_copy(
        update={"lora": LoraConfig(rank=4, alpha=8.0, sync="adapter"), "activation_checkpointing": True}
    )
    shards = plan_shards(SEQUENCES, ranks=2, max_tokens_per_micro_batch=40)
    result = trained(tmp_path, model_dir, shards, grpo=grpo, learner=learner, resume=True)
    base = AutoModelForCausalLM.from_pretrained(model_dir)
    before = {name: p.detach().clone() for name, p in base.named_parameters()}
    merged = unpacked(result["buckets"])
    assert merged.keys() == before.keys()
    alone: WeightUpdate = result["adapter"]
    assert alone.low_rank is not None
    factors = unpacked([(bucket.slots, bucket.ref) for bucket in alone.buckets])
    summed = merged_weights(model_dir, factors, scaling=alone.low_rank.scaling, device=torch.device("cpu"))
    assert all(torch.equal(weight, merged[name]) for name, weight in summed)
    changed = {name for name in before if not torch.equal(before[name], merged[name])}
    assert changed == {name for name in before if "_proj.weight" in name}

    def gap(logprobs: torch.Tensor) -> float:
        """Largest difference to what plain transformers makes of the weights in ``base``."""
        largest = 0.0
        for index, row in enumerate(shards[0].micro_batches[0]):
            logits = base(torch.tensor([row.prompt_token_ids + row.token_ids])).logits
            logp = torch.log_softmax(logits[0, len(row.prompt_token_ids) - 1 : -1], dim=-1)
            own = logp[range(len(row.token_ids)), list(row.token_ids)]
            largest = max(largest, (logprobs[index, : len(own)] - own).abs().max().item())
        return largest

    with torch.no_grad():
        assert gap(result["reference"]) < 1e-5
        moved = gap(result["logprobs"])
        base.load_state_dict(merged, strict=False)
        left = gap(result["logprobs"])
    assert moved > 0.1 and left < 1e-4 * moved, (moved, left)
    assert_resumed(result)
    saved = {path.name: path.stat().st_size for path in (tmp_path / "checkpoint").rglob("*model_states.pt")}
    whole = sum(weight.numel() * 4 for weight in before.values())
    assert len(saved) == 2 and sum(saved.values()) < 0.5 * whole, "the frozen base must not be in the checkpoint"
