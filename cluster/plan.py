"""What a recipe will do, need and take, said before it is done."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from cluster.config import Recipe, dump_recipe
from cluster.model_shape import ModelShape, shape_of
from cluster.placement import parts_of
from cluster.sizing import GIB, HOST_BASELINE, MIB, Need, Sizing, adapter_ends, estimate, misfits
from cluster.step_time import Rates, completion_tokens, measured_rates, step_seconds
from data.errors import ConfigError
from data.load import check_source
from data.low_rank import check_targets
from data.storage import Storage
from learner.deepspeed_config import check_reference_settings, resolve_device


def describe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, followed by the plan as comments."""
    loop, data = recipe.loop, Storage.open(recipe.run.storage).child(recipe.run.name)
    model = recipe.model.path or "a small Qwen2-architecture policy, built by the run"
    asked = [f"{part.name} {part.count} x {part.cpus:g} CPUs" for part in parts_of(recipe, on_gpu=False)]
    samples = loop.questions_per_step * loop.samples_per_question
    lines = [
        f"run        {data.uri}",
        f"model      {model}",
        f"warm-up    {recipe.warm_up.steps} supervised steps of {recipe.warm_up.batch_size}",
        f"rl         {loop.steps} steps of {loop.questions_per_step} questions x {loop.samples_per_question} samples"
        f" = {samples} completions a step, {samples * loop.steps:,} in all, before refills",
        f"tokens     at most {recipe.rollouts.max_prompt_tokens} + {recipe.rollouts.max_completion_tokens} per sample",
        f"evaluate   every {loop.evaluation.every} steps, commit every {loop.checkpoint_every}",
        f"resources  {', '.join(asked)}; with GPUs: {recipe.rollouts.actors} x {recipe.rollouts.tensor_parallel} "
        f"for rollouts, {recipe.learner.ranks} for the learner",
    ]
    return dump_recipe(recipe) + _comment("Plan", lines)


def dry_run_of(
    recipe: Recipe, *, gpu_gib: float = 0.0, tokens_per_second: float = 0.0, learner_tokens_per_second: float = 0.0
) -> tuple[str, ConfigError | None]:
    """The whole plan, and the error when it cannot be carried out; 0 = not given.

    Without ``gpu_gib`` this machine's GPUs count, or its CPU where it has none; without a rate, an earlier run's.

    Raises:
        ConfigError: the model is not there, or not one that can be estimated; a setting that the device does not have.
        DataError: the file of the questions is not there.
        SetupError: CUDA is asked for and there are no GPUs.
    """
    here = [] if gpu_gib else gpus_here()
    gpu = gpu_gib * GIB or min(here, default=0.0)
    check_devices(recipe, recipe.learner.ranks if gpu else 0)  # a cluster may have more than here
    check_source(recipe.data.questions)
    given = tokens_per_second or learner_tokens_per_second
    rates = Rates(rollout=tokens_per_second, learner=learner_tokens_per_second) if given else measured_rates(recipe)
    shape = shape_of(recipe.model)
    check_targets(recipe.learner.lora.targets if recipe.learner.lora else (), adapter_ends(shape))
    sizing = estimate(recipe, shape, on_gpu=gpu > 0, gpu_bytes=gpu)
    host = 0.0 if gpu_gib else host_bytes()
    text = describe(recipe)
    text += _comment("Memory", _memory(recipe, shape, sizing, gpu=gpu, host=host))
    text += _comment("Time", _time(recipe, rates))
    found = misfits(recipe, shape, sizing, gpu_bytes=gpu, host_bytes=host, gpus_here=len(here))
    return text, refusal(found)


def refusal(found: list[tuple[str, str]]) -> ConfigError | None:
    """One error out of all that cannot fit."""
    if not found:
        return None
    return ConfigError("; ".join(problem for problem, _ in found), remedy="; ".join(remedy for _, remedy in found))


def check_devices(recipe: Recipe, gpus: float) -> None:
    """Refuse settings that ``gpus`` GPUs, or a CPU where there is none, do not have.

    Raises:
        ConfigError: naming the setting.
        SetupError: CUDA is asked for and there are no GPUs.
    """
    learner = resolve_device(recipe.learner, gpus)
    check_reference_settings(learner, recipe.grpo.kl)
    if recipe.rollouts.weight_transfer == "nccl" and learner.device != "cuda":
        raise ConfigError(
            f"rollouts.weight_transfer is nccl, and the learner runs on the device {learner.device!r}",
            remedy="set rollouts.weight_transfer to object_store",
        )
    if recipe.rollouts.tensor_parallel > 1 and not gpus:
        raise ConfigError(
            f"rollouts.tensor_parallel is {recipe.rollouts.tensor_parallel}, and there are no GPUs to split a model on",
            remedy="set rollouts.tensor_parallel to 1, or plan for GPUs with --dry-run --gpu-memory-gib",
        )


def check_gpus(recipe: Recipe, gpu: float) -> None:
    """Refuse a recipe whose ranks or engines no GPU of ``gpu`` bytes can hold; 0 = not known.

    Raises:
        ConfigError: naming what does not fit and the key that changes it.
    """
    try:
        shape = shape_of(recipe.model)
    except ConfigError:
        return  # an architecture that cannot be estimated may run all the same
    refused = refusal(misfits(recipe, shape, estimate(recipe, shape, on_gpu=True, gpu_bytes=gpu), gpu_bytes=gpu))
    if gpu and refused:
        raise refused


def gpu_bytes() -> float:
    """Memory of the smallest GPU of this machine; 0 without any."""
    return min(gpus_here(), default=0.0)


def gpus_here() -> list[float]:
    """Memory of every GPU of this machine, as NVIDIA's driver says."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    return [float(line) * MIB for line in done.stdout.split() if line.strip().replace(".", "").isdigit()]


def host_bytes() -> float:
    """Memory that this process may use: the machine's, or less where a container is bounded."""
    import psutil

    files = [Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory/memory.limit_in_bytes")]
    limits = [file.read_text().strip() for file in files if file.is_file()]
    return min([float(psutil.virtual_memory().total), *(float(limit) for limit in limits if limit.isdigit())])


def _memory(recipe: Recipe, shape: ModelShape, sizing: Sizing, *, gpu: float, host: float) -> Iterator[str]:
    longest = recipe.max_model_tokens
    yield f"N = {shape.parameters / 1e6:,.1f} M parameters, R = {recipe.learner.ranks} ranks; the peak of one process:"
    for need in (sizing.learner, sizing.engine):
        yield from _need(need)
    yield ""
    sequences = sizing.kv_tokens // longest
    if sizing.kv_tokens:
        yield (
            f"The KV cache of an engine holds {sizing.kv_tokens:,} tokens: {sequences:,} sequences of full length "
            f"({longest}) at once, rollouts.max_concurrent_requests is {recipe.rollouts.max_concurrent_requests}"
        )
    yield (
        f"Weights travel in buckets of {sizing.sync_bucket / MIB:,.0f} MiB at most (learner.sync_bucket_mib, or the "
        f"largest tensor); the object store holds one update, {_gib(sizing.object_store)}"
    )
    if gpu:
        yield f"One GPU has {_gib(gpu)}; a rank and each GPU of an engine take one each"
    if sizing.offloaded:
        yield f"Of every rank, ZeRO-Offload moves {_gib(sizing.offloaded)} to host memory"
    if not gpu:
        base = sum(need.count * HOST_BASELINE[need.who] for need in sizing.on_host) + HOST_BASELINE["everything else"]
        yield f"The machine: {_gib(sizing.host)} at the peak, {_gib(base)} of it libraries and Ray; it has {_gib(host)}"


def _need(need: Need) -> Iterator[str]:
    where = "GPU" if need.on_gpu else "host memory"
    yield ""
    yield f"{need.who + f' x {need.count}':24}{_gib(need.peak):>11}   {where:44}to lower it"
    for part in need.parts:
        yield f"  {part.name:22}{_gib(part.bytes):>11}   {part.formula:44}{part.knob}"


def _time(recipe: Recipe, rates: Rates | None) -> Iterator[str]:
    if rates is None:
        yield "unknown: no run with this model in run.storage has measured it; give --tokens-per-second"
        return
    seconds = step_seconds(recipe, rates)
    yield (
        f"{completion_tokens(recipe, rates):.0f} tokens per completion, {rates.sampled_groups:.2f} groups sampled per "
        f"question of a step, {rates.trained_share:.0%} of their tokens trained on ({rates.source})"
    )
    if rates.differs:
        yield f"that run differs in {_some(rates.differs)}: expect other figures"
    for phase, value in seconds.items():
        speed = rates.by_phase.get(phase)
        said = f", {speed:,.0f} completion tokens/s" if speed else ""
        yield f"  {phase:22}{value:>9.1f} s{said}"
    total = sum(seconds.values())
    whole = f"{recipe.loop.steps} steps {total * recipe.loop.steps / 60:,.0f} min"
    yield f"  {'a step':22}{total:>9.1f} s, {whole}, evaluations and commits left out"
    for phase, option in (("roll out", "--tokens-per-second"), ("learn", "--learner-tokens-per-second")):
        if phase not in seconds:
            yield f"  {phase} is not in it: give {option}"


def _some(names: Sequence[str], most: int = 4) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _comment(title: str, lines: Iterator[str] | list[str]) -> str:
    return f"\n# {title}\n" + "\n".join(f"#   {line}".rstrip() for line in lines) + "\n"


def _gib(value: float) -> str:
    return f"{value / GIB:,.2f} GiB"
