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


class GrpoConfig(StrictModel):
    """The GRPO objective (paper eq. 1-3) and its safeguards."""

    optimizer: OptimizerConfig = OptimizerConfig()
    clip_low: Annotated[float, Field(gt=0, le=1, description="ratio is clipped to [1 - clip_low, 1 + clip_high]")] = 0.2
    clip_high: Annotated[float, Field(gt=0)] = 0.2
    max_importance_weight: Annotated[float, Field(gt=0, description="C of min(proximal / sampled, C)")] = 2.0
    optimizer_steps_per_batch: Annotated[
        int, Field(ge=1, description="a batch is cut in this many optimiser steps")
    ] = 1
    overlong: Annotated[
        Literal["train", "drop"],
        Field(description="completions cut by the token limit: train on them, or leave them out of their group"),
    ] = "train"


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
