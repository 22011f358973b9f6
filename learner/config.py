"""Settings of the learning half."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from data.strict import StrictModel

Beta = Annotated[float, Field(ge=0, lt=1)]
"""Decay of a moving average. At 1 AdamW divides by zero: its correction of the start is 1 - beta ** step."""


PACKAGE_SCHEME = "package:"
"""``model.path: package:NAME``: the model that an installed package carries (`learner/packaged_model.py`)."""


class OptimizerConfig(StrictModel):
    """AdamW and its learning-rate schedule."""

    learning_rate: Annotated[float, Field(gt=0, description="peak learning rate")] = 1e-6
    betas: Annotated[tuple[Beta, Beta], Field(description="AdamW betas, each in [0, 1)")] = (0.9, 0.95)
    eps: Annotated[float, Field(gt=0, description="AdamW epsilon: keeps the step finite where no gradient was")] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Annotated[Literal["constant", "linear", "cosine"], Field(description="shape after the warm-up")] = (
        "constant"
    )
    warmup_steps: Annotated[int, Field(ge=0, description="steps of linear warm-up from 0")] = 0
    max_grad_norm: Annotated[float, Field(ge=0, description="clip the global gradient norm; 0 = no clipping")] = 1.0


class LoraConfig(StrictModel):
    """A low-rank adapter instead of full fine-tuning: the base is frozen, ``W + (alpha / rank) B A`` is what learns."""

    rank: Annotated[int, Field(ge=1, description="columns of B, rows of A")] = 16
    alpha: Annotated[float, Field(gt=0, description="the adapter is scaled by alpha / rank")] = 32.0
    targets: Annotated[
        tuple[str, ...],
        Field(min_length=1, description="names of the layers that get one; all-linear = all but the output layer"),
    ] = ("all-linear",)
    sync: Annotated[
        Literal["merged", "adapter"],
        Field(description="what travels to engines: whole weights, or A and B, which each engine adds to its base"),
    ] = "merged"

    @model_validator(mode="after")
    def _targets(self) -> Self:
        if "all-linear" in self.targets and len(self.targets) > 1:
            raise ValueError("learner.lora.targets names all-linear and others; give all-linear alone, or the others")
        return self


class LearnerConfig(StrictModel):
    """What ZeRO-3 ranks run on, and how memory is bounded. Shared by RL and supervised stages."""

    ranks: Annotated[int, Field(ge=1, description="ZeRO-3 data-parallel ranks, one GPU (or CPU share) each")] = 1
    cpus_per_rank: Annotated[float, Field(gt=0, description="Ray CPUs reserved per rank")] = 1.0
    node_group: Annotated[
        str, Field(description="custom Ray resource that marks the nodes for ranks; empty = any node")
    ] = ""
    cpu_threads: Annotated[int, Field(ge=0, description="OpenMP threads of a CPU rank; 0 = share the cores evenly")] = 0
    device: Annotated[Literal["auto", "cpu", "cuda"], Field(description="auto = cuda when the cluster has GPUs")] = (
        "auto"
    )
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Field(description="compute dtype; masters are always fp32. auto = bfloat16 on GPU, float32 on CPU"),
    ] = "auto"
    max_tokens_per_micro_batch: Annotated[
        int, Field(ge=1, description="tokens of a packed micro-batch; a prompt that completions share counts once")
    ] = 16384
    logits_chunk_mib: Annotated[
        float, Field(gt=0, description="largest block of fp32 logits held at once, MiB (positions x vocabulary)")
    ] = 256.0
    lora: Annotated[LoraConfig | None, Field(description="train an adapter only; exported merged")] = None
    activation_checkpointing: Annotated[bool, Field(description="recompute activations in the backward pass")] = False
    offload_optimizer: Annotated[
        bool, Field(description="ZeRO-Offload: keep optimiser state in host memory (GPU only)")
    ] = False
    offload_parameters: Annotated[
        bool, Field(description="ZeRO-Offload: keep parameters in host memory (GPU only)")
    ] = False
    sync_bucket_mib: Annotated[
        float, Field(gt=0, description="largest bucket of gathered weights during a sync, MiB")
    ] = 256.0
    start_timeout_s: Annotated[
        float, Field(gt=0, description="seconds until the ranks must be up, waiting for a place included")
    ] = 1800.0
    max_restarts: Annotated[int, Field(ge=0, description="worker-group restarts that Ray Train may do")] = 3
    collective_timeout_s: Annotated[
        float, Field(gt=0, description="seconds after which a collective that hangs is an error")
    ] = 1800.0

    @property
    def sends_adapter(self) -> bool:
        """A and B travel to the engines instead of whole weights."""
        return self.lora is not None and self.lora.sync == "adapter"


Advantage = Literal["centred", "standardised"]
Aggregation = Literal["sequence_sum", "token_mean", "sequence_mean", "constant_length"]
ImportanceWeights = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
KlEstimator = Literal["k1", "k2", "k3"]


class KlConfig(StrictModel):
    """A penalty in the loss for leaving the reference: the policy that RL began with. The paper names none.

    The reference is a ZeRO-3 copy of the initial model, or, with ``learner.lora``, the base under the adapter.
    """

    coefficient: Annotated[float, Field(ge=0, description="beta, weight of the KL term; 0 = no reference at all")] = 0.0
    estimator: Annotated[KlEstimator, Field(description="per-token estimate: see `learner.loss.kl_estimate`")] = "k3"
    offload: Annotated[bool, Field(description="keep the reference's weights in host memory (GPU only)")] = False

    @model_validator(mode="after")
    def _needed(self) -> Self:
        if self.offload and self.coefficient == 0.0:
            raise ValueError(
                "grpo.kl.offload is true, but grpo.kl.coefficient is 0: there is no reference to offload; "
                "set grpo.kl.coefficient above 0 or grpo.kl.offload=false"
            )
        return self


class GrpoConfig(StrictModel):
    """The GRPO family. The defaults are the paper (eq. 1-3); `learner.loss` has each formula with its source."""

    optimizer: OptimizerConfig = OptimizerConfig()
    advantage: Annotated[
        Advantage,
        Field(description="reward - mean of the group (paper), or that over the group's standard deviation"),
    ] = "centred"
    aggregation: Annotated[
        Aggregation, Field(description="how token terms become one loss: see `learner.batching.token_weights`")
    ] = "sequence_sum"
    ratio: Annotated[
        Literal["token", "sequence"],
        Field(description="current / proximal per token (PPO), or its geometric mean per sequence (GSPO)"),
    ] = "token"
    clip_low: Annotated[float, Field(gt=0, le=1, description="ratio is clipped to [1 - clip_low, 1 + clip_high]")] = 0.2
    clip_high: Annotated[float, Field(gt=0)] = 0.2
    importance_weights: Annotated[
        ImportanceWeights,
        Field(description="proximal / sampled per token or sequence: cut at the maximum, or 0 outside the band"),
    ] = "token_truncate"
    max_importance_weight: Annotated[float, Field(gt=0, description="upper end C: truncates, or masks above")] = 2.0
    min_importance_weight: Annotated[float, Field(ge=0, description="lower end of the band; masks below")] = 0.0
    kl: KlConfig = KlConfig()
    entropy_coefficient: Annotated[float, Field(ge=0, description="weight of the entropy bonus; 0 = none")] = 0.0
    optimizer_steps_per_batch: Annotated[
        int, Field(ge=1, description="a batch is cut in this many optimiser steps")
    ] = 1
    epochs_per_batch: Annotated[
        int, Field(ge=1, description="times a batch is trained on; the proximal policy is the one before the first")
    ] = 1
    overlong: Annotated[
        Literal["train", "drop"],
        Field(description="completions cut by the token limit: train on them, or leave them out of their group"),
    ] = "train"

    @property
    def updates_per_batch(self) -> int:
        """Optimiser steps on one batch, over all its epochs."""
        return self.optimizer_steps_per_batch * self.epochs_per_batch

    @model_validator(mode="after")
    def _band(self) -> Self:
        low, high = self.min_importance_weight, self.max_importance_weight
        if low > 0 and self.importance_weights.endswith("truncate"):
            raise ValueError(
                f"grpo.min_importance_weight is {low:g}, but grpo.importance_weights={self.importance_weights} has no "
                "lower end; set grpo.min_importance_weight=0 or one of token_mask, sequence_mask"
            )
        if low >= high:
            raise ValueError(
                f"grpo.min_importance_weight {low:g} is not below grpo.max_importance_weight {high:g}: "
                "every token would be masked"
            )
        return self


class SupervisedConfig(StrictModel):
    """Supervised fine-tuning: the short warm-up here, the CoT cold start later."""

    steps: Annotated[int, Field(ge=0, description="optimiser steps; 0 skips the stage")] = 0
    batch_size: Annotated[int, Field(ge=1, description="sequences per step over all ranks")] = 32
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-5)


class TinyPolicyConfig(StrictModel):
    """A policy small enough to learn on two cores: Qwen2 architecture, tied embeddings, own BPE tokenizer."""

    hidden_size: Annotated[int, Field(ge=8, description="width")] = 128
    layers: Annotated[int, Field(ge=1)] = 4
    heads: Annotated[int, Field(ge=1, description="attention heads; must divide hidden_size")] = 4
    kv_heads: Annotated[int, Field(ge=1, description="key-value heads; must divide heads")] = 2
    vocab_size: Annotated[int, Field(ge=300, description="tokens, 256 bytes and the tags included")] = 2048
    max_positions: Annotated[int, Field(ge=16, description="longest sequence, tokens")] = 256
    seed: Annotated[int, Field(ge=0, lt=2**63, description="initial weights")] = 0

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(f"heads {self.heads} does not divide hidden_size {self.hidden_size} into even parts")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads {self.kv_heads} does not divide heads {self.heads}")
        return self
