"""Settings of the rollout half."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from data.strict import StrictModel


class RolloutConfig(StrictModel):
    """How completions are generated during training."""

    actors: Annotated[int, Field(ge=1, description="rollout actors, each with its own vLLM engine")] = 1
    tensor_parallel: Annotated[int, Field(ge=1, description="GPUs per engine; 1 on the CPU")] = 1
    cpus_per_actor: Annotated[float, Field(gt=0, description="Ray CPUs reserved per actor (fractions are fine)")] = 1.0
    node_group: Annotated[
        str, Field(description="custom Ray resource that marks the nodes for engines; empty = any node")
    ] = ""
    cpu_threads: Annotated[
        int, Field(ge=0, description="OpenMP threads of a CPU engine; 0 = share the cores evenly")
    ] = 0
    bind_cores: Annotated[
        bool,
        Field(
            description="pin each CPU engine to cores of its own; leave it off where containers share a host's cores"
        ),
    ] = False
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], Field(description="auto = bfloat16 on GPU, float32 on CPU")
    ] = "auto"
    # vLLM samples at 0.01 whatever is asked below it; the learner would divide by another temperature.
    temperature: Annotated[float, Field(ge=0.01, description="sampling temperature of training rollouts")] = 1.0
    max_prompt_tokens: Annotated[int, Field(ge=1, description="longer prompts are refused")] = 1024
    max_completion_tokens: Annotated[int, Field(ge=1, description="completions are cut here")] = 1024
    max_concurrent_requests: Annotated[int, Field(ge=1, description="sequences one engine decodes at once")] = 64
    kv_cache_gib: Annotated[float, Field(gt=0, le=1e6, description="KV cache of a CPU engine, GiB of host memory")] = (
        1.0
    )
    gpu_memory_fraction: Annotated[
        float, Field(gt=0, le=1, description="share of a GPU's memory that vLLM may take")
    ] = 0.85
    enforce_eager: Annotated[bool, Field(description="no CUDA graphs; always true on the CPU")] = False
    weight_transfer: Annotated[
        Literal["object_store", "nccl"],
        Field(description="object_store: Ray object references (any device, elastic); nccl: a fixed pool of GPUs"),
    ] = "object_store"
    start_timeout_s: Annotated[float, Field(gt=0, description="seconds an engine may take to start")] = 600.0
    request_timeout_s: Annotated[float, Field(gt=0, description="seconds one completion may take")] = 1800.0
    update_timeout_s: Annotated[float, Field(gt=0, description="seconds one weight update of an engine may take")] = (
        600.0
    )
