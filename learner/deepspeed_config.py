"""From our settings to DeepSpeed's. No torch here, so that a wrong recipe is refused before anything starts."""

from __future__ import annotations

from typing import Any

from data.errors import ConfigError, SetupError
from learner.config import KlConfig, LearnerConfig, OptimizerConfig

PERSISTENT_BELOW = 10_000
"""Elements; smaller parameters (norms, biases) stay whole on every rank, which saves a collective each."""
REDUCE_BUCKET = 50_000_000
"""Elements of the gradient buffer that ZeRO-3 keeps on each rank."""


def resolve_device(learner: LearnerConfig, gpus: float) -> LearnerConfig:
    """Replace "auto" in device and dtype by what a cluster with ``gpus`` GPUs can run.

    Raises:
        SetupError: CUDA is asked for and there are fewer GPUs than ranks.
        ConfigError: a setting that the device does not have, such as offload on the CPU.
    """
    device = learner.device
    if device == "auto":
        device = "cuda" if gpus > 0 else "cpu"
    if device == "cuda" and gpus < learner.ranks:
        raise SetupError(
            f"learner.ranks is {learner.ranks} on cuda, but the cluster has {gpus:g} GPUs",
            remedy="lower learner.ranks, add GPUs, or set learner.device=cpu",
        )
    dtype = learner.dtype
    if dtype == "auto":
        dtype = "bfloat16" if device == "cuda" else "float32"
    resolved = learner.model_copy(update={"device": device, "dtype": dtype})
    check_device_settings(resolved)
    return resolved


def check_device_settings(learner: LearnerConfig) -> None:
    """Refuse settings that the (resolved) device does not have.

    Raises:
        ConfigError: ZeRO offload on the CPU, where parameters and optimiser state are in host memory already.
    """
    if learner.device == "cpu":
        for name in ("offload_optimizer", "offload_parameters"):
            if getattr(learner, name):
                raise ConfigError(
                    f"learner.{name} is true on the CPU, where everything is in host memory already",
                    remedy=f"set learner.{name}=false, or learner.device=cuda on a machine with GPUs",
                )


def check_reference_settings(learner: LearnerConfig, kl: KlConfig) -> None:
    """Refuse settings of the reference that the (resolved) device does not have.

    Raises:
        ConfigError: the reference offloaded on the CPU.
    """
    if learner.device == "cpu" and kl.offload:
        raise ConfigError(
            "grpo.kl.offload is true on the CPU, where everything is in host memory already",
            remedy="set grpo.kl.offload=false, or learner.device=cuda on a machine with GPUs",
        )


def reference_config(learner: LearnerConfig, *, offload: bool) -> dict[str, Any]:
    """ZeRO-3 for a model that is only run forward: no optimiser, its parameters in host memory when ``offload``."""
    frozen = learner.model_copy(update={"offload_optimizer": False, "offload_parameters": offload})
    settings = deepspeed_config(frozen, OptimizerConfig())
    del settings["optimizer"]
    return settings


def deepspeed_config(learner: LearnerConfig, optimizer: OptimizerConfig) -> dict[str, Any]:
    """The ZeRO-3 configuration for a resolved device and dtype. Micro-batches and their number are our own business:
    accumulation is steered by hand, so DeepSpeed is told 1 and 1.
    """
    check_device_settings(learner)
    on_gpu = learner.device == "cuda"
    zero: dict[str, Any] = {
        "stage": 3,
        "contiguous_gradients": True,
        "overlap_comm": on_gpu,
        "reduce_bucket_size": REDUCE_BUCKET,
        "stage3_param_persistence_threshold": PERSISTENT_BELOW,
        "stage3_gather_16bit_weights_on_model_save": False,
    }
    if learner.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if learner.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optimizer.max_grad_norm,
        "zero_optimization": zero,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": optimizer.learning_rate,
                "betas": list(optimizer.betas),
                "eps": optimizer.eps,
                "weight_decay": optimizer.weight_decay,
                # torch's AdamW needs no compiler; the optimiser of ZeRO-Offload is DeepSpeed's own and does.
                "torch_adam": not learner.offload_optimizer,
                # One pass over the state, without temporaries of the size of the shard.
                **({} if learner.offload_optimizer else {"fused": True}),
            },
        },
        "bf16": {"enabled": learner.dtype == "bfloat16"},
        # Gradients of many micro-batches are summed in fp32, whatever the compute type.
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }
