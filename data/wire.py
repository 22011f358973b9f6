"""Typed messages and protocols between the halves of the system: who generates, who scores, who learns, who conducts.

Everything here is plain data or a protocol, importable without Ray, torch or vLLM. An ``ObjectRef`` is carried as an
opaque ``object`` so that the wire does not depend on Ray.

Shapes: a *group* is k completions of one question; a *shard* is the part of a batch that one learner rank trains on,
cut in micro-batches; every rank of a step runs the same number of micro-batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from data.records import Completion, Group, Question, ScoredGroup

# --- towards the rollout actors -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SamplingSpec:
    """How completions are sampled. ``temperature`` 0 is greedy; ``max_tokens`` bounds the completion, in tokens.

    ``top_p`` is not offered: truncated sampling would make the sampled log-probabilities those of another policy.
    """

    temperature: float
    max_tokens: int


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """One completion to sample. ``draw`` counts how often the run has drawn a question; seeds differ by draw."""

    question_id: str
    draw: int
    sample_index: int
    seed: int
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingSpec


@runtime_checkable
class Sampler(Protocol):
    """Whoever turns questions into completions; rooms below `actors` take one instead of importing an engine."""

    async def sample_group(self, question: Question, *, draw: int, k: int, sampling: SamplingSpec) -> Group:
        """Sample ``k`` completions of one question."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """Whoever verifies the completions of a group."""

    async def score(self, group: Group) -> ScoredGroup:
        """Score every completion of ``group``, in order."""
        ...


# --- weights, from the learner to the rollout actors ------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TensorSlot:
    """Where one tensor lies in a bucket: ``nbytes`` bytes from ``offset``; ``dtype`` is torch's name ("float32")."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class WeightBucket:
    """Some tensors in one flat uint8 array. ``ref`` is a Ray object reference to a numpy array ``uint8[nbytes]``."""

    slots: tuple[TensorSlot, ...]
    nbytes: int
    ref: object


@dataclass(frozen=True, kw_only=True)
class LowRankChange:
    """What turns a base model into a policy: ``weights`` become W + ``scaling`` B A, the others are the base's.

    ``base``: path or URI of the model directory; ``fingerprint``: of its files (`data.low_rank.fingerprint`).
    ``rank``: rows of every A, columns of every B.
    """

    base: str
    fingerprint: str
    rank: int
    scaling: float
    weights: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class WeightUpdate:
    """All weights of policy ``version``, in buckets of bounded size, with names and dtypes as in a checkpoint.

    With ``low_rank`` the buckets hold A and B alone (`data.low_rank.factor_names`), in the dtype of the policy.
    """

    version: int
    buckets: tuple[WeightBucket, ...]
    low_rank: LowRankChange | None = None

    @property
    def nbytes(self) -> int:
        return sum(bucket.nbytes for bucket in self.buckets)


# --- from the controller to the learner -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TrainSequence:
    """One completion to learn from.

    ``sampled_logprobs``: one per completion token. ``advantage``: reward minus the mean of the group (paper, eq. 2).
    ``coefficient``: weight of each of its tokens in the loss; in the paper (eq. 1: mean over questions of the mean over
    the group) 1 / (completions left in its group x groups in the batch). Other aggregations are other coefficients, so
    the gradient does not depend on how sequences are spread over micro-batches and ranks.
    """

    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    sampled_logprobs: tuple[float, ...]
    advantage: float
    coefficient: float

    @property
    def length(self) -> int:
        return len(self.prompt_token_ids) + len(self.token_ids)


@dataclass(frozen=True, kw_only=True)
class SupervisedSequence:
    """One demonstration: the loss is the mean negative log-likelihood of ``token_ids`` given the prompt."""

    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]

    @property
    def length(self) -> int:
        return len(self.prompt_token_ids) + len(self.token_ids)


@dataclass(frozen=True, kw_only=True)
class TrainShard:
    """What one rank trains on in one step. An empty micro-batch is run with weight zero: ZeRO-3 needs equal counts.

    ``step_sizes``: how many of the micro-batches, in order, make up each optimiser step; empty means one optimiser step
    over all of them. Every rank has the same sizes.
    """

    micro_batches: tuple[tuple[TrainSequence, ...], ...]
    step_sizes: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RestorePoint:
    """Where a (re)started learner begins: ``checkpoint`` in the run's storage, None = the initial model."""

    step: int
    checkpoint: str | None


@dataclass(frozen=True, kw_only=True)
class TrainStep:
    """Command: take one optimiser step. ``shards[r]`` is a Ray object reference to the `TrainShard` of rank r.

    After the step the policy has version ``step``; it is published when ``publish`` and saved when ``checkpoint``.
    """

    step: int
    shards: tuple[object, ...]
    publish: bool = True
    checkpoint: bool = False


@dataclass(frozen=True, kw_only=True)
class PublishWeights:
    """Command: gather the current weights in buckets and hand them out as policy ``version``."""

    version: int


@dataclass(frozen=True, kw_only=True)
class SaveCheckpoint:
    """Command: save the state after ``step``, outside a train step."""

    step: int


@dataclass(frozen=True, kw_only=True)
class ExportModel:
    """Command: write the current policy as a model directory to ``target``, relative to the run's storage."""

    target: str


@dataclass(frozen=True, kw_only=True)
class LoadCheckpoint:
    """Command: go back (or on) to ``restore``; answered by `LearnerStarted`."""

    restore: RestorePoint


@dataclass(frozen=True, kw_only=True)
class StopLearner:
    """Command: leave the train loop in good order."""


LearnerCommand = TrainStep | PublishWeights | SaveCheckpoint | ExportModel | LoadCheckpoint | StopLearner


# --- from the learner to the controller -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LearnerStarted:
    """Event: a worker group is up at ``step``. ``generation`` above 1 means that it was restarted after a failure."""

    generation: int
    step: int


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """Event: optimiser step ``step`` was taken. ``metrics`` are means over the batch; ``seconds`` are per phase."""

    step: int
    metrics: Mapping[str, float]
    seconds: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class WeightsReady:
    """Event: the weights of a version lie on the object store."""

    update: WeightUpdate


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved:
    """Event: the learner's state after ``step`` is durable; ``path`` is relative to the run's storage."""

    step: int
    path: str


@dataclass(frozen=True, kw_only=True)
class ModelExported:
    """Event: the model directory ``target`` is whole."""

    target: str


@dataclass(frozen=True, kw_only=True)
class LearnerFailed:
    """Event: the learner is gone for good; ``reason`` is what Ray Train said."""

    reason: str


LearnerEvent = LearnerStarted | StepDone | WeightsReady | CheckpointSaved | ModelExported | LearnerFailed


@dataclass(frozen=True, kw_only=True)
class EngineStats:
    """Counters of one rollout actor since it started, and its state. Seconds are wall-clock."""

    actor: str
    version: int
    running_requests: int
    outstanding_tokens: int
    generated_tokens: int
    busy_seconds: float


Metrics = dict[str, float]
CompletionBatch = Sequence[Completion]


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """What one stage of a recipe achieved, for the end of a run. ``figures`` are name -> value."""

    stage: str
    figures: Mapping[str, float] = field(default_factory=dict)
