"""What a rank's process needs before torch and DeepSpeed start: threads, device, quiet logs."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path

from data.errors import SetupError
from learner.config import LearnerConfig


def threads_per_rank(learner: LearnerConfig, cores: int, ranks_on_node: int) -> int:
    """OpenMP threads of one rank: as configured, or this node's cores shared evenly; at least one."""
    if learner.cpu_threads:
        return learner.cpu_threads
    return max(1, cores // max(1, ranks_on_node)) if learner.device != "cuda" else max(1, int(learner.cpus_per_rank))


def worker_environment(learner: LearnerConfig) -> dict[str, str]:
    """Environment of every rank's process. A CPU rank on a GPU node must see no GPU, or DeepSpeed would take it."""
    environment = {"TOKENIZERS_PARALLELISM": "false"}
    if learner.device == "cpu":
        environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    if learner.cpu_threads:
        environment["OMP_NUM_THREADS"] = str(learner.cpu_threads)
    return environment


def check_model_dir(model_dir: str) -> None:
    """Refuse a folder that holds no model with safetensors weights.

    Raises:
        SetupError: what is missing.
    """
    folder = Path(model_dir)
    missing = "config.json" if not (folder / "config.json").is_file() else ""
    if not missing and not any(folder.glob("*.safetensors")):
        missing = "*.safetensors"
    if missing:
        raise SetupError(
            f"no model in {model_dir}: {missing} is missing",
            remedy="give a model directory with config.json and safetensors weights",
        )


def prepare_process(learner: LearnerConfig, *, ranks_on_node: int = 1) -> None:
    """Set threads and log levels of this process. Called once per rank, before `ZeroPolicy` is built."""
    os.environ.update(worker_environment(learner))
    # DeepSpeed compiles a small op with ninja, which a virtual environment keeps next to its interpreter.
    own_bin = str(Path(sys.executable).parent)
    if own_bin not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = own_bin + os.pathsep + os.environ.get("PATH", "")
    import torch
    import transformers

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    torch.set_num_threads(threads_per_rank(learner, cores, ranks_on_node))
    for name in ("DeepSpeed", "deepspeed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # DeepSpeed still calls collectives under their old names, once per parameter.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
