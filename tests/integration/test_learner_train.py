"""The learner inside real Ray Train, two ZeRO-3 ranks: commands, buckets, checkpoints, a killed rank, SFT."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import ray
import torch

from data.wire import (
    CheckpointSaved,
    ExportModel,
    LearnerEvent,
    LearnerFailed,
    LearnerStarted,
    LoadCheckpoint,
    ModelExported,
    PublishWeights,
    RestorePoint,
    StepDone,
    StopLearner,
    TrainStep,
    WeightsReady,
    WeightUpdate,
)
from learner.batching import plan_shards
from learner.config import GrpoConfig, LearnerConfig, OptimizerConfig, SupervisedConfig
from learner.jobs import GrpoJob, SupervisedJob
from learner.mailbox import MailboxActor
from learner.supervised_loop import batch_indices
from learner.trainer import LearnerRun
from tests.learner.tiny import demonstrations, train_sequences, write_tiny_model

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

LEARNER = LearnerConfig(ranks=2, cpu_threads=1, max_tokens_per_micro_batch=64, sync_bucket_mib=40_000 / 2**20)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("model"), seed=5)


class KillsItsReader:
    """A shard that kills the process that unpickles it, once: afterwards ``flag`` exists."""

    def __init__(self, flag: Path) -> None:
        self.flag = str(flag)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_kill_once, (self.flag,))


def _kill_once(flag: str) -> None:
    if not os.path.exists(flag):
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)


class Controller:
    """The other side of the mailbox, as the test plays it."""

    def __init__(self, storage: Path, model_dir: str) -> None:
        self.generation = 1
        self.mailbox = cast(Any, MailboxActor).remote(RestorePoint(step=0, checkpoint=None))
        grpo = GrpoConfig(optimizer=OptimizerConfig(learning_rate=1e-3, schedule="linear", warmup_steps=2))
        self.run = cast(Any, LearnerRun).remote()
        self.ended = self.run.run_grpo.remote(
            GrpoJob(
                run_name="train/attempt-01",
                storage=str(storage),
                model_dir=model_dir,
                learner=LEARNER,
                grpo=grpo,
                temperature=1.0,
                total_steps=4,
                seed=1,
                mailbox=self.mailbox,
            )
        )

    def send(self, command: Any) -> None:
        assert ray.get(self.mailbox.send.remote(self.generation, command))

    def train(self, step: int, *, checkpoint: bool = False) -> None:
        shards = plan_shards(train_sequences(7, seed=step), ranks=2, max_tokens_per_micro_batch=64)
        refs = tuple(ray.put(shard) for shard in shards)
        self.send(TrainStep(step=step, shards=refs, checkpoint=checkpoint))

    def event(self, kind: type[Any]) -> Any:
        event: LearnerEvent = ray.get(self.mailbox.next_event.remote(), timeout=200)
        assert isinstance(event, kind), event
        return event

    def weights(self) -> dict[str, torch.Tensor]:
        return tensors(self.event(WeightsReady).update)


def tensors(update: WeightUpdate) -> dict[str, torch.Tensor]:
    """What an update carries, read from the object store; checks the bound on the way."""
    assert len(update.buckets) > 1
    found = {}
    for bucket in update.buckets:
        flat: np.ndarray[Any, Any] = ray.get(bucket.ref)
        assert flat.nbytes == bucket.nbytes and (bucket.nbytes <= 40_000 or len(bucket.slots) == 1)
        for slot in bucket.slots:
            raw = torch.from_numpy(flat[slot.offset : slot.offset + slot.nbytes].copy())
            found[slot.name] = raw.view(getattr(torch, slot.dtype)).reshape(slot.shape)
    return found


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_a_killed_rank_comes_back_at_the_commit_and_repeats_the_same_weights(
    cluster: None, model_dir: str, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    storage = tmp_path / "storage"
    controller = Controller(storage, model_dir)
    assert controller.event(LearnerStarted) == LearnerStarted(generation=1, step=0)
    controller.send(PublishWeights(version=0))
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    initial = {name: p.detach() for name, p in model.named_parameters()}
    assert equal(controller.weights(), initial)

    controller.train(1, checkpoint=True)
    done = controller.event(StepDone)
    check_metrics(done)
    first = controller.weights()
    assert not equal(first, initial)
    saved = controller.event(CheckpointSaved)
    assert saved.path == "train/attempt-01/step-000001" and (storage / saved.path / "learner.json").exists()
    ray.get(controller.mailbox.set_restore.remote(RestorePoint(step=1, checkpoint=saved.path)))

    controller.train(2, checkpoint=True)  # never committed: the restart below must not begin here
    controller.event(StepDone)
    second = controller.weights()
    controller.event(CheckpointSaved)
    assert sorted(p.name for p in (storage / "train/attempt-01").glob("step-*")) == ["step-000001", "step-000002"]

    shards = plan_shards(train_sequences(7, seed=3), ranks=2, max_tokens_per_micro_batch=64)
    poison = KillsItsReader(tmp_path / "killed")
    controller.send(TrainStep(step=3, shards=(ray.put(shards[0]), ray.put(poison))))
    assert controller.event(LearnerStarted) == LearnerStarted(generation=2, step=1)
    controller.generation = 2
    controller.train(2, checkpoint=True)
    again = controller.event(StepDone)
    assert again.metrics["learning_rate"] == pytest.approx(1e-3)  # the last warm-up step, as the first time
    assert equal(controller.weights(), second)
    assert controller.event(CheckpointSaved).path == "train/attempt-01/step-000002-g2"
    kept = sorted(p.name for p in (storage / "train/attempt-01").glob("step-*"))
    assert kept == ["step-000001", "step-000002-g2"]  # the committed one and the newest

    restore = RestorePoint(step=1, checkpoint=saved.path)
    controller.send(LoadCheckpoint(restore=restore))
    assert controller.event(LearnerStarted) == LearnerStarted(generation=2, step=1)
    controller.send(PublishWeights(version=1))
    assert equal(controller.weights(), first)
    controller.send(LoadCheckpoint(restore=RestorePoint(step=2, checkpoint="train/attempt-01/step-000002-g2")))
    controller.event(LearnerStarted)

    controller.send(ExportModel(target="models/final"))
    controller.event(ModelExported)
    exported = AutoModelForCausalLM.from_pretrained(storage / "models/final")
    assert equal({name: p.detach() for name, p in exported.named_parameters()}, second)

    controller.send(StopLearner())
    ray.get(controller.ended, timeout=60)
    controller.event(LearnerFailed)  # whoever still listened would hear that nobody is there
    ray.kill(controller.run)


def check_metrics(done: StepDone) -> None:
    sequences = train_sequences(7, seed=1)
    assert done.metrics["tokens"] == sum(len(row.token_ids) for row in sequences)
    assert done.metrics["learning_rate"] == pytest.approx(0.5e-3)
    assert done.metrics["ratio_mean"] == 1.0 and done.metrics["clip_fraction"] == 0.0
    assert 0.0 < done.metrics["entropy"] < np.log(300)
    assert done.metrics["grad_norm"] > 0.0
    assert done.metrics["logprob_gap_max"] >= done.metrics["logprob_gap_mean"] > 0.0
    assert {"fetch", "forward_backward", "optimizer", "publish"} <= done.seconds.keys()


def test_supervised_run_lowers_the_loss_and_exports_a_model(cluster: None, model_dir: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    rows = demonstrations(24, seed=2)
    settings = SupervisedConfig(steps=25, batch_size=9, optimizer=OptimizerConfig(learning_rate=5e-3))
    run = cast(Any, LearnerRun).remote()
    job = SupervisedJob(
        run_name="warm-up",
        storage=str(tmp_path / "storage"),
        model_dir=model_dir,
        learner=LEARNER,
        supervised=settings,
        seed=4,
        sequences=ray.put(rows),
        export_to="models/warm-up",
    )
    result = ray.get(run.run_supervised.remote(job), timeout=200)
    ray.kill(run)

    def mean_nll(model: Any, batch: list[int]) -> float:
        losses = []
        for row in (rows[i] for i in batch):
            ids = torch.tensor([row.prompt_token_ids + row.token_ids])
            logp = torch.log_softmax(model(ids).logits[0].float(), dim=-1)
            start = len(row.prompt_token_ids)
            losses += [-logp[start + t - 1, token].item() for t, token in enumerate(row.token_ids)]
        return float(np.mean(losses))

    assert len(result.history) == 25
    before = AutoModelForCausalLM.from_pretrained(model_dir)
    first_batch = batch_indices(len(rows), 9, 0, 4)
    assert result.history[0]["loss"] == pytest.approx(mean_nll(before, first_batch), rel=1e-4)
    after = AutoModelForCausalLM.from_pretrained(result.model_dir)
    assert mean_nll(after, list(range(len(rows)))) < 0.2 * result.history[0]["loss"]
    assert result.model_dir == str(tmp_path / "storage" / "models" / "warm-up")
