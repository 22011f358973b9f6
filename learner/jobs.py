"""What the learner is asked to do: one frozen job per Ray Train run. Plain data, shipped to every rank."""

from __future__ import annotations

from dataclasses import dataclass, field

from data.code import code_hash
from learner.config import GrpoConfig, LearnerConfig, SupervisedConfig


@dataclass(frozen=True, kw_only=True)
class NcclTransfer:
    """How to reach a fixed pool of GPU engines with vLLM's NCCL engine (``rollouts.weight_transfer: nccl``).

    ``client`` has the four methods of vLLM's ``VLLMWeightSyncClient`` and drives every engine of the pool.
    ``world_size`` counts the learner's sender and every worker of every engine. ``master_port`` is free on rank 0's
    node. ``timeout_s`` bounds the handshake and each transfer: after a failed peer the group would block for ever.
    """

    client: object
    world_size: int
    master_port: int
    timeout_s: float = 600.0


@dataclass(frozen=True, kw_only=True)
class GrpoJob:
    """Serve the controller's commands until it says stop.

    Checkpoints land in ``<storage>/<run_name>/step-...``; their paths in `CheckpointSaved` and `RestorePoint` are
    relative to ``storage``. ``run_name`` must be new for every attempt: Ray Train goes on with its own last snapshot
    when a name repeats. ``mailbox`` is the handle of a `MailboxActor`. ``temperature`` is that of the sampled
    log-probabilities. ``total_steps`` (batches) only shapes the learning-rate schedule. ``code`` is the hash of the
    code of whoever makes the job; ranks with other code refuse it.
    """

    run_name: str
    storage: str
    model_dir: str
    learner: LearnerConfig
    grpo: GrpoConfig
    temperature: float
    total_steps: int
    seed: int
    mailbox: object
    nccl: NcclTransfer | None = None
    code: str = field(default_factory=code_hash)


@dataclass(frozen=True, kw_only=True)
class SupervisedJob:
    """Fine-tune on demonstrations and export a model directory.

    ``sequences``: a Ray object reference to a ``list[SupervisedSequence]``. The model is written to
    ``<storage>/<export_to>``. ``progress``, when given, is the handle of an actor with a method
    ``progress(step: int, metrics: dict[str, float])``, called after each step without waiting. ``code`` is as in
    `GrpoJob`.
    """

    run_name: str
    storage: str
    model_dir: str
    learner: LearnerConfig
    supervised: SupervisedConfig
    seed: int
    sequences: object
    export_to: str
    progress: object | None = None
    code: str = field(default_factory=code_hash)


@dataclass(frozen=True, kw_only=True)
class SupervisedResult:
    """``model_dir`` is the path or URI of the exported model; ``history[i]`` are the metrics of step i + 1."""

    model_dir: str
    history: tuple[dict[str, float], ...] = field(default=())
