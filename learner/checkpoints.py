"""The learner's state in the run's storage: sharded checkpoints to go on from, and model directories to use.

A checkpoint folder holds, per rank, DeepSpeed's shard of weights, masters and optimiser state and the state of the
random generators, and ``learner.json`` with the counters. Each rank writes only its own files; Ray Train merges them.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from data.errors import ConfigError, RunStateError
from data.low_rank import fingerprint
from data.storage import Storage, storage_errors
from data.wire import RestorePoint
from learner.lora import named_weights
from learner.policy import ZeroPolicy
from learner.weight_sending import gather_buckets, plan_buckets

TAG = "zero"
SHARD_BYTES = 4 << 30
"""Largest weights file of an exported model."""


@dataclass(frozen=True, kw_only=True)
class LearnerState:
    """The counters of a checkpoint: batches trained, optimiser steps taken, ranks that wrote it; and the `fingerprint`
    of the model directory that RL began with ("" in checkpoints that do not say)."""

    step: int
    optimizer_step: int
    ranks: int
    base: str = ""


def checkpoint_name(step: int, generation: int) -> str:
    """Folder of a checkpoint. A restarted learner may reach a step again and must not write into the old folder."""
    return f"step-{step:06d}" if generation <= 1 else f"step-{step:06d}-g{generation}"


def save(policy: ZeroPolicy, *, step: int, name: str) -> None:
    """Write the checkpoint ``name`` to the run's storage through Ray Train; a collective, durable when it returns."""
    import ray.train

    with storage_errors(tempfile.gettempdir(), setting="TMPDIR"):
        temporary = tempfile.TemporaryDirectory(prefix="fleming-checkpoint-")
    with temporary as folder:
        with storage_errors(folder, setting="TMPDIR"):
            write_local(policy, folder, step=step)
        with storage_errors(f"the run's storage (checkpoint {name})"):
            ray.train.report(
                {"step": step}, checkpoint=ray.train.Checkpoint.from_directory(folder), checkpoint_dir_name=name
            )
    dist.barrier()  # rank 0 announces the checkpoint: by now every rank's files are in it


def write_local(policy: ZeroPolicy, folder: str, *, step: int) -> None:
    """This rank's files of a checkpoint into a folder of its own; a collective."""
    rank = dist.get_rank()
    frozen = policy.learner.lora is not None  # the base under an adapter is in the model directory already
    policy.engine.save_checkpoint(folder, tag=TAG, save_latest=False, exclude_frozen_parameters=frozen)
    torch.save(_random_state(), Path(folder) / f"random-{rank:05d}.pt")
    if rank == 0:
        state = LearnerState(
            step=step,
            optimizer_step=policy.optimizer_step,
            ranks=dist.get_world_size(),
            base=fingerprint(policy.model_dir),
        )
        (Path(folder) / "learner.json").write_text(json.dumps(asdict(state)))


def load(policy: ZeroPolicy, storage: str, restore: RestorePoint, *, needs_base: bool = False) -> LearnerState:
    """Bring ``policy`` back to ``restore.checkpoint`` (relative to ``storage``); a collective.

    ``needs_base``: an adapter or a reference rests on the model directory, so it has to be the one of the checkpoint.

    Raises:
        RunStateError: the checkpoint is missing or of another step, or the model directory has changed.
        ConfigError: it was written by another number of ranks.
    """
    import ray.train

    place = Storage.open(storage)
    key = restore.checkpoint or ""
    if not place.exists(f"{key}/learner.json"):
        raise RunStateError(
            f"no learner checkpoint at {place.uri}/{key}", remedy="restore the run's storage, or start a new run"
        )
    checkpoint = ray.train.Checkpoint(path=place.path(key), filesystem=place.fs)
    with checkpoint.as_directory() as folder:
        return read_local(policy, folder, step=restore.step, needs_base=needs_base)


def read_local(policy: ZeroPolicy, folder: str, *, step: int, needs_base: bool = False) -> LearnerState:
    """Load a checkpoint from a folder that holds the files of every rank; a collective."""
    state = LearnerState(**json.loads((Path(folder) / "learner.json").read_text()))
    if state.ranks != dist.get_world_size():
        raise ConfigError(
            f"learner.ranks is {dist.get_world_size()}, but the checkpoint was written by {state.ranks} ranks",
            remedy=f"resume with learner.ranks={state.ranks}",
        )
    if state.step != step:
        raise RunStateError(
            f"the learner checkpoint is of step {state.step}, not {step}", remedy="restore the run's storage"
        )
    if needs_base and state.base and state.base != fingerprint(policy.model_dir):
        raise RunStateError(
            f"the model in {policy.model_dir} has changed, and the checkpoint's adapter or reference rests on it",
            remedy="restore the model directory (models/ of the run, or model.path), or start a new run",
        )
    loaded, _ = policy.engine.load_checkpoint(folder, tag=TAG, load_module_strict=policy.learner.lora is None)
    if loaded is None:
        raise RunStateError("DeepSpeed refused the learner checkpoint", remedy="read the learner's log above")
    policy.optimizer_step = state.optimizer_step
    _set_random_state(torch.load(Path(folder) / f"random-{dist.get_rank():05d}.pt", weights_only=False))
    return state


def prune(storage: str, run_name: str, *, keep: set[str]) -> None:
    """Delete the checkpoints of this Ray Train run and of the attempts before it (``train/attempt-01`` and so on, by
    ``run_name``) that are not in ``keep`` (paths relative to ``storage``).

    Ray Train's own rule, the newest n, could delete the committed one when a learner dies again and again between a
    checkpoint and its commit, and sees one attempt only. Called by rank 0 only.
    """
    place = Storage.open(storage)
    parent, _, own = run_name.rpartition("/")
    stem = own.rpartition("-")[0]
    attempts = [name for name in place.list(parent) if name == own or (stem and name.startswith(f"{stem}-"))]
    for attempt in attempts:
        folder = f"{parent}/{attempt}" if parent else attempt
        for checkpoint in place.list(folder):
            key = f"{folder}/{checkpoint}"
            if checkpoint.startswith("step-") and key not in keep:
                place.delete_tree(key)


def _random_state() -> dict[str, Any]:
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "numpy": np.random.get_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    np.random.set_state(state["numpy"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def export_model(policy: ZeroPolicy, target: Storage, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a model directory that transformers and vLLM load, shard by shard; a collective, rank 0 writes.

    Weights are in the compute dtype. ``config.json`` is deleted first and written last: a directory without it is not a
    model, so a death in mid-export never leaves new shards beside old ones that still load.
    """
    from safetensors.torch import save as to_safetensors

    writer = dist.get_rank() == 0
    if writer:
        _unmake_model(target)
    weights = named_weights(policy.module)
    plans = plan_buckets(weights, shard_bytes)
    names = ["model.safetensors"]
    if len(plans) > 1:
        names = [f"model-{i + 1:05d}-of-{len(plans):05d}.safetensors" for i in range(len(plans))]
    buckets = gather_buckets(weights, shard_bytes, keep=writer)
    for name, (slots, flat) in zip(names, buckets, strict=True):
        if writer:
            whole = torch.from_numpy(flat)
            tensors = {
                s.name: whole[s.offset : s.offset + s.nbytes].view(getattr(torch, s.dtype)).reshape(s.shape)
                for s in slots
            }
            target.write(name, to_safetensors(tensors, metadata={"format": "pt"}))
    if writer:
        if len(plans) > 1:
            weight_map = {slot.name: name for name, plan in zip(names, plans, strict=True) for slot in plan.slots}
            index = {"metadata": {"total_size": sum(plan.nbytes for plan in plans)}, "weight_map": weight_map}
            target.write("model.safetensors.index.json", json.dumps(index, indent=1).encode())
        _copy_companions(policy, target)
    dist.barrier()


def _unmake_model(target: Storage) -> None:
    """Take away what an earlier export left: the configuration first, then every weights file and their index."""
    target.delete("config.json")
    for name in target.list():
        if name.endswith((".safetensors", ".safetensors.index.json")):
            target.delete(name)


def _copy_companions(policy: ZeroPolicy, target: Storage) -> None:
    """Tokenizer, chat template and generation settings as they are; the configuration with the dtype just written."""
    source = Path(policy.model_dir)
    skip = {"config.json", "model.safetensors.index.json"}
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name not in skip and path.suffix in {".json", ".txt", ".model", ".jinja", ".md"}:
            target.write(path.name, path.read_bytes())
    config = json.loads((source / "config.json").read_text())
    config.pop("torch_dtype", None)
    config["dtype"] = policy.learner.dtype
    target.write("config.json", json.dumps(config, indent=2).encode())
