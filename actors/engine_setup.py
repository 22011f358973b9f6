"""What an engine needs before it can start: a readable model, vLLM's arguments and environment, and its own words
when it fails. Nothing here starts a process."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.config import RolloutConfig
from data.errors import EngineError
from data.low_rank import factor_names, fingerprint, weight_files
from data.storage import local_copy
from data.wire import LowRankChange, WeightUpdate

if TYPE_CHECKING:
    from vllm.engine.arg_utils import AsyncEngineArgs

TIED_HEAD = "lm_head.weight"
_GIB = 1 << 30
_CPU_BATCHED_TOKENS = 8192
IN_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""vLLM's executor whose worker is part of the engine's own process. Named in full: "uni" vLLM replaces on the CPU,
because it could not set the OpenMP environment of a process that runs already; `engine_environment` does so before."""


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """What a model directory says of itself.

    ``tensors``: name -> shape of every weight, as in its safetensors files. ``eos_token_ids``: every id that ends a
    completion, from `generation_config.json` and `config.json`, ascending. ``tied``: the output layer is the embedding.
    """

    tensors: Mapping[str, tuple[int, ...]]
    eos_token_ids: tuple[int, ...]
    tied: bool


def read_model_files(model_dir: str) -> ModelFiles:
    """Look at a model directory without loading it.

    Raises:
        EngineError: the directory, its configuration, tokenizer or weights are missing or unreadable.
    """
    from safetensors import SafetensorError, safe_open

    folder = Path(model_dir)
    if not folder.is_dir():
        raise EngineError(f"model directory does not exist: {model_dir}", remedy="set the model to one that does")
    remedy = "save the model again with save_pretrained (safetensors) beside its tokenizer"
    for needed in ("config.json", "tokenizer_config.json"):
        if not (folder / needed).is_file():
            raise EngineError(f"{needed} is missing in model directory {model_dir}", remedy=remedy)
    tensors: dict[str, tuple[int, ...]] = {}
    try:
        shards = weight_files(model_dir)
        model = json.loads((folder / "config.json").read_text())
        generation_path = folder / "generation_config.json"
        generation = json.loads(generation_path.read_text()) if generation_path.is_file() else {}
        for shard in shards:
            with safe_open(shard, framework="numpy") as handle:
                names: list[str] = handle.keys()
                tensors |= {name: tuple(handle.get_slice(name).get_shape()) for name in names}
    except (OSError, ValueError, SafetensorError) as error:
        raise EngineError(f"model directory {model_dir} is unreadable ({error})", remedy=remedy) from error
    if not shards:
        raise EngineError(f"no *.safetensors file in model directory {model_dir}", remedy=remedy)
    eos = {token for source in (model, generation) for token in _as_ids(source.get("eos_token_id"))}
    return ModelFiles(tensors=tensors, eos_token_ids=tuple(sorted(eos)), tied=bool(model.get("tie_word_embeddings")))


def _as_ids(value: int | list[int] | None) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else list(value)


def check_update(update: WeightUpdate, model: ModelFiles) -> None:
    """An update must bring every weight of the model, once, in its shape: a weight left out keeps its old value.

    One that brings a low-rank change must bring A and B of every weight that it says to change.

    Raises:
        EngineError: naming the weights that are missing, unknown, repeated or of another shape.
    """
    slots = [slot for bucket in update.buckets for slot in bucket.slots]
    names = [slot.name for slot in slots]
    optional = {TIED_HEAD} if model.tied else set[str]()
    expected, strangers = model.tensors, set[str]()
    if update.low_rank is not None:
        expected, optional = _factor_shapes(update.low_rank, model), set[str]()
        strangers = {name for name in update.low_rank.weights if len(model.tensors.get(name, ())) != 2}
    problems = {
        "missing": sorted(set(expected) - set(names) - optional),
        "unknown": sorted((set(names) - set(expected) - optional) | strangers),
        "repeated": sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else [],
        "misshapen": sorted(s.name for s in slots if s.shape != expected.get(s.name, s.shape)),
    }
    found = {kind: _shorten(which) for kind, which in problems.items() if which}
    if found:
        raise EngineError(
            f"weight update {update.version} does not fit the model: {found}",
            remedy="publish all weights of the same architecture that the rollout engines serve",
        )


def _factor_shapes(change: LowRankChange, model: ModelFiles) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the factors of the matrices that ``change`` names."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name in change.weights:
        match model.tensors.get(name):
            case (outputs, inputs):
                a, b = factor_names(name)
                shapes |= {a: (change.rank, inputs), b: (outputs, change.rank)}
    return shapes


def base_directory(change: LowRankChange, model: ModelFiles) -> str:
    """The directory on this node with the weights that ``change`` rests on; brought here where it is a URI.

    Not always the one that the engine started on: after a supervised warm-up the learner's base is the warmed-up model.

    Raises:
        EngineError: its files are not those of the learner, or of another architecture than ``model``.
        ConfigError, SetupError: there is none, or it cannot be brought here.
    """
    folder = local_copy(change.base)
    remedy = (
        "keep the model directory as it is while the run lasts, the same on every node; or learner.lora.sync=merged"
    )
    if fingerprint(folder) != change.fingerprint:
        raise EngineError(f"the adapter rests on other weights than those in {folder}", remedy=remedy)
    tensors = read_model_files(folder).tensors
    optional = {TIED_HEAD} if model.tied else set()
    other = {name for name, _ in tensors.items() ^ model.tensors.items()} - optional
    if other:
        raise EngineError(
            f"the adapter's base in {folder} is not the architecture that the engine serves: {_shorten(sorted(other))}",
            remedy=remedy,
        )
    return folder


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def engine_args(
    config: RolloutConfig, model_dir: str, *, seed: int, max_model_len: int, on_cpu: bool
) -> AsyncEngineArgs:
    """vLLM's arguments for this configuration. Sampling defaults of the model are switched off: the policy that is
    sampled must be the one that is trained."""
    from vllm.config import WeightTransferConfig
    from vllm.engine.arg_utils import AsyncEngineArgs

    from actors.weight_transfer import BACKEND, EXTENSION

    device: dict[str, Any] = (
        # VLLM_CPU_KVCACHE_SPACE takes whole GiB only; this argument counts bytes.
        {
            "kv_cache_memory_bytes": int(config.kv_cache_gib * _GIB),
            "enforce_eager": True,
            # vLLM 0.32 rewinds the generator of a seeded request whose prompt was cut in chunks, and torch's CPU
            # generator cannot be rewound: whole prompts only.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(max_model_len, _CPU_BATCHED_TOKENS),
        }
        if on_cpu
        else {"gpu_memory_utilization": config.gpu_memory_fraction, "enforce_eager": config.enforce_eager}
    )
    dtype = config.dtype if config.dtype != "auto" else "float32" if on_cpu else "bfloat16"
    return AsyncEngineArgs(
        model=model_dir,
        skip_tokenizer_init=True,  # token ids in, token ids out; text is decoded by `RolloutEngine`
        trust_remote_code=False,
        load_format="safetensors",
        use_tqdm_on_load=False,
        dtype=dtype,
        seed=seed,
        max_model_len=max_model_len,
        max_num_seqs=config.max_concurrent_requests,
        tensor_parallel_size=config.tensor_parallel,
        # Never left to vLLM: inside a Ray actor it may pick its Ray executor, whose workers no owner watches. A single
        # worker needs no process of its own: on the CPU the engine would wait for it spinning, on the cores it needs.
        distributed_executor_backend="mp" if config.tensor_parallel > 1 else IN_PROCESS,
        enable_prefix_caching=True,
        generation_config="vllm",
        logprobs_mode="processed_logprobs",
        worker_extension_cls=EXTENSION,
        weight_transfer_config=WeightTransferConfig(backend="nccl" if config.weight_transfer == "nccl" else BACKEND),
        disable_log_stats=True,
        **device,
    )


def cpu_threads(config: RolloutConfig) -> int:
    """OpenMP threads of one CPU engine: as configured, or an even share of the cores this process may use."""
    return config.cpu_threads or max(1, len(os.sched_getaffinity(0)) // config.actors)


@contextmanager
def engine_environment(config: RolloutConfig, log_dir: Path, cores: Sequence[int] = ()) -> Iterator[None]:
    """The environment that vLLM's child processes inherit; put back afterwards.

    Threads are pinned to ``cores``, one each. Without them they are counted but not pinned: vLLM's own way, every
    engine on all the cores of its NUMA node, would put all engines of a host on the same ones.
    """
    logging_file = log_dir / "logging.json"
    logging_file.write_text(json.dumps(_logging_config(str(log_dir / "vllm.log"))))
    changes: dict[str, str | None] = {
        "OMP_NUM_THREADS": str(cpu_threads(config)),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)) or "nobind",  # of worker processes
        "GOMP_CPU_AFFINITY": " ".join(map(str, cores)) or None,  # of the engine's own process
        # oneDNN keeps a kernel per shape that it has met, 1,024 by default; batches of all sizes make a worker grow for
        # hundreds of steps.
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
        "VLLM_CPU_KVCACHE_SPACE": None,
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_CONFIG_PATH": str(logging_file),
        "VLLM_ENGINE_READY_TIMEOUT_S": str(int(config.start_timeout_s) + 1),
    }
    before = {name: os.environ.get(name) for name in changes}
    _set_environment(changes)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _logging_config(path: str) -> dict[str, Any]:
    """Python logging for vLLM's processes: warnings and errors to a file, where a failed start is read from."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(levelname)s %(name)s: %(message)s"}},
        "handlers": {"file": {"class": "logging.FileHandler", "filename": path, "formatter": "plain", "delay": True}},
        "loggers": {"vllm": {"handlers": ["file"], "level": "WARNING", "propagate": False}},
    }


_ERROR_LINE = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception): .+$", re.MULTILINE)


def root_cause(error: BaseException, log: str) -> str:
    """One line: the first error that vLLM's processes logged, since later ones only report it; else ``error``."""
    found = _ERROR_LINE.search(log)
    return " ".join((found.group(0) if found else f"{type(error).__name__}: {error}").split())[:400]


def start_failure(cause: str, model_dir: str) -> EngineError:
    """The error of an engine that did not come up, with the remedy that fits ``cause``."""
    lower = cause.lower()
    if "kv cache" in lower or "kv_cache" in lower or "cache blocks" in lower:
        remedy = "raise rollouts.kv_cache_gib (CPU) or rollouts.gpu_memory_fraction (GPU), or lower the token limits"
    elif "max_model_len" in lower:
        remedy = "lower rollouts.max_prompt_tokens + rollouts.max_completion_tokens to what the model takes"
    elif "memory" in lower:
        remedy = "free memory on this host, or lower rollouts.kv_cache_gib or rollouts.gpu_memory_fraction"
    else:
        remedy = "check that vLLM supports this model and that its files are whole"
    return EngineError(f"the rollout engine could not start on {model_dir} ({cause})", remedy=remedy)
