"""Device, dtype, threads and DeepSpeed settings."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from data.errors import ConfigError, SetupError
from learner.config import GrpoConfig, KlConfig, LearnerConfig, LoraConfig, OptimizerConfig
from learner.deepspeed_config import check_reference_settings, deepspeed_config, reference_config, resolve_device
from learner.process import threads_per_rank, worker_environment


def test_auto_follows_the_cluster() -> None:
    on_gpu = resolve_device(LearnerConfig(ranks=2), gpus=2)
    assert (on_gpu.device, on_gpu.dtype) == ("cuda", "bfloat16")
    on_cpu = resolve_device(LearnerConfig(ranks=2), gpus=0)
    assert (on_cpu.device, on_cpu.dtype) == ("cpu", "float32")
    assert resolve_device(LearnerConfig(device="cpu", dtype="bfloat16"), gpus=8).dtype == "bfloat16"


def test_more_ranks_than_gpus_is_refused() -> None:
    with pytest.raises(SetupError, match=r"ranks is 4 on cuda, but the cluster has 2 GPUs"):
        resolve_device(LearnerConfig(ranks=4), gpus=2)


@pytest.mark.parametrize("knob", ["offload_optimizer", "offload_parameters"])
def test_offload_on_the_cpu_is_refused(knob: str) -> None:
    with pytest.raises(ConfigError, match=f"learner.{knob}"):
        resolve_device(LearnerConfig.model_validate({knob: True}), gpus=0)
    assert resolve_device(LearnerConfig.model_validate({knob: True}), gpus=1).device == "cuda"


def test_deepspeed_hears_what_the_recipe_says() -> None:
    optimizer = OptimizerConfig(learning_rate=3e-4, betas=(0.8, 0.9), weight_decay=0.1, max_grad_norm=0.7)
    learner = LearnerConfig(device="cuda", dtype="bfloat16", offload_optimizer=True, offload_parameters=True)
    settings = deepspeed_config(learner, optimizer)
    assert settings["zero_optimization"]["stage"] == 3
    assert settings["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert settings["zero_optimization"]["offload_param"]["device"] == "cpu"
    assert settings["bf16"]["enabled"] and settings["data_types"]["grad_accum_dtype"] == "fp32"
    assert settings["gradient_clipping"] == 0.7
    parameters = settings["optimizer"]["params"]
    assert (parameters["lr"], parameters["betas"], parameters["weight_decay"]) == (3e-4, [0.8, 0.9], 0.1)
    plain = deepspeed_config(LearnerConfig(device="cpu", dtype="float32"), optimizer)
    assert "offload_optimizer" not in plain["zero_optimization"] and not plain["bf16"]["enabled"]


def test_threads_share_the_cores() -> None:
    assert threads_per_rank(LearnerConfig(device="cpu"), cores=8, ranks_on_node=3) == 2
    assert threads_per_rank(LearnerConfig(device="cpu"), cores=2, ranks_on_node=4) == 1
    assert threads_per_rank(LearnerConfig(device="cpu", cpu_threads=5), cores=2, ranks_on_node=4) == 5


def test_a_cpu_rank_sees_no_gpu() -> None:
    environment = worker_environment(LearnerConfig(device="cpu"))
    assert environment["CUDA_VISIBLE_DEVICES"] == "" and environment["DS_ACCELERATOR"] == "cpu"
    assert "CUDA_VISIBLE_DEVICES" not in worker_environment(LearnerConfig(device="cuda"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_importance_weight": 0.5}, r"min_importance_weight is 0.5.*token_truncate.*set .*token_mask"),
        ({"importance_weights": "token_mask", "min_importance_weight": 2.0}, "is not below grpo.max_importance_weight"),
        ({"kl": {"offload": True}}, r"grpo.kl.coefficient is 0.*set grpo.kl.coefficient above 0"),
        ({"aggregation": "sum"}, "sequence_sum"),
        ({"kl": {"estimator": "k4"}}, "k1"),
        ({"epochs_per_batch": 0}, "greater than or equal to 1"),
    ],
)
def test_grpo_settings_that_mean_nothing_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GrpoConfig.model_validate(values)


def test_the_defaults_are_the_paper() -> None:
    grpo = GrpoConfig()
    assert (grpo.advantage, grpo.aggregation, grpo.ratio) == ("centred", "sequence_sum", "token")
    assert (grpo.kl.coefficient, grpo.entropy_coefficient, grpo.updates_per_batch) == (0.0, 0.0, 1)
    assert LearnerConfig().lora is None


def test_lora_targets_are_all_or_named() -> None:
    with pytest.raises(ValidationError, match="give all-linear alone"):
        LoraConfig(targets=("all-linear", "q_proj"))


def test_the_reference_is_frozen_and_offloaded_on_a_gpu_only() -> None:
    learner = LearnerConfig(device="cuda", dtype="bfloat16", offload_optimizer=True)
    settings = reference_config(learner, offload=True)
    assert "optimizer" not in settings and settings["zero_optimization"]["stage"] == 3
    assert settings["zero_optimization"]["offload_param"]["device"] == "cpu"
    assert "offload_optimizer" not in settings["zero_optimization"]
    assert "offload_param" not in reference_config(learner, offload=False)["zero_optimization"]
    with pytest.raises(ConfigError, match=r"grpo\.kl\.offload is true on the CPU"):
        check_reference_settings(LearnerConfig(device="cpu"), KlConfig(coefficient=0.1, offload=True))
