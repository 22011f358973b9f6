"""What a recipe needs before it starts: memory per rank and per engine, and what cannot fit, with the key to change.

Nothing is started and no weights are read; the arithmetic is in the open, so that its table explains itself. N:
parameters of the model, R: learner ranks, T: packed tokens of a micro-batch, L: layers, V: vocabulary.

Learner, one rank, under ZeRO-3 (b: bytes of its compute dtype; n: parameters that are trained, N but for LoRA). Its
peak is the backward pass, since the fused AdamW needs no memory beyond its state:
    weights bN/R + masters 4n/R + Adam 8n/R + gradients 4n/R + layers made whole + activations + logits
Engine, one vLLM instance (b: of its own dtype): weights bN + KV cache + working memory.
In host memory come the copies of a weight update: of rank 0 two that it hands out (n numbers each where the adapter
travels alone), of an engine one while it loads (with an adapter two: the base's files, mapped, and the sums).

The constants come from CPU runs and hold there within 20 % (tests/soak/test_sizing.py). The arithmetic for GPUs is the
same and has not been compared with one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.config import Recipe
from cluster.model_shape import ModelShape
from learner.deepspeed_config import REDUCE_BUCKET

MIB, GIB = 1 << 20, 1 << 30
FIXED = "fixed"
_LIVE_PARAMETERS = 1_000_000_000
"""Parameters that ZeRO-3 keeps whole at once at most (DeepSpeed's default of ``stage3_max_live_parameters``)."""
_BATCHED_TOKENS = 8192
"""Tokens of one prefill of an engine; vLLM sizes its working memory for them."""
_GAPS = 1.1
"""The allocator holds a tenth more than the activations themselves: blocks of many sizes leave gaps (CPU runs)."""
GPU_RESERVE = 1.0 * GIB
"""What CUDA itself, its libraries and fragmentation take of a GPU."""
HOST_BASELINE = {"learner rank": 0.62 * GIB, "engine": 1.4 * GIB, "everything else": 2.5 * GIB}
"""Resident memory of processes before any model: libraries of a rank; of an engine with its actor; of
Ray, the driver and the reward actors."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One share of the memory: bytes, where they come from, and the recipe key that changes them."""

    name: str
    bytes: float
    formula: str
    knob: str


@dataclass(frozen=True, kw_only=True)
class Need:
    """The memory of one process that has a GPU, or a share of the host, for itself; ``parts`` at its peak."""

    who: str
    count: int
    on_gpu: bool
    parts: tuple[Part, ...]

    @property
    def peak(self) -> float:
        """Bytes."""
        return _sum(self.parts)

    @property
    def largest(self) -> Part:
        return max(self.parts, key=lambda part: part.bytes)


@dataclass(frozen=True, kw_only=True)
class Sizing:
    """The memory of a recipe, in bytes; ``kv_tokens`` is what the KV cache of one engine holds, ``offloaded`` what
    ZeRO-Offload moves from the GPU of one rank to host memory."""

    learner: Need
    engine: Need
    kv_tokens: int
    sync_bucket: float
    object_store: float
    offloaded: float = 0.0

    @property
    def on_host(self) -> tuple[Need, ...]:
        return tuple(need for need in (self.learner, self.engine) if not need.on_gpu)

    @property
    def host(self) -> float:
        """Of a machine on which everything runs, libraries included; what is on GPUs is left out."""
        needs = sum(need.count * (need.peak + HOST_BASELINE[need.who]) for need in self.on_host)
        return needs + self.object_store + HOST_BASELINE["everything else"]


def _sum(parts: Sequence[Part]) -> float:
    return sum(part.bytes for part in parts)


def element_bytes(dtype: str, *, on_gpu: bool) -> int:
    """Bytes of one number; "auto" is what a run would take."""
    resolved = dtype if dtype != "auto" else ("bfloat16" if on_gpu else "float32")
    return 4 if resolved == "float32" else 2


def estimate(recipe: Recipe, shape: ModelShape, *, on_gpu: bool, gpu_bytes: float = 0.0) -> Sizing:
    """The memory of ``recipe`` with a model of ``shape``; ``gpu_bytes``: what one GPU has, 0 = not known."""
    learner_on_gpu = on_gpu and recipe.learner.device != "cpu"
    wide = element_bytes(recipe.learner.dtype, on_gpu=learner_on_gpu)
    engine, kv_tokens = engine_need(recipe, shape, on_gpu=on_gpu, gpu_bytes=gpu_bytes)
    return Sizing(
        learner=learner_need(recipe, shape, wide, on_gpu=learner_on_gpu),
        engine=engine,
        kv_tokens=kv_tokens,
        sync_bucket=max(recipe.learner.sync_bucket_mib * MIB, wide * _largest_sent(recipe, shape)),
        object_store=wide * sent_parameters(recipe, shape),
        offloaded=offloaded_bytes(recipe, shape, wide) if learner_on_gpu else 0.0,
    )


# --- the learner ------------------------------------------------------------------------------------------------------


def micro_batch_tokens(recipe: Recipe) -> int:
    """Packed tokens of the largest micro-batch that a rank can meet: the bound, or a whole batch where that is less.

    Of RL, every prompt counts once and every completion in full length; of the warm-up, every demonstration does.
    """
    rollouts, loop = recipe.rollouts, recipe.loop
    group = rollouts.max_prompt_tokens + loop.samples_per_question * rollouts.max_completion_tokens
    warm_up = recipe.warm_up.batch_size * recipe.max_model_tokens if recipe.warm_up.steps else 0
    per_rank = math.ceil(max(loop.questions_per_step * group, warm_up) / recipe.learner.ranks)
    return max(recipe.max_model_tokens, min(recipe.learner.max_tokens_per_micro_batch, per_rank))


def learner_need(recipe: Recipe, shape: ModelShape, wide: int, *, on_gpu: bool) -> Need:
    """Memory of one ZeRO-3 rank on its device; what ZeRO-Offload moves to the host is left out."""
    learner = recipe.learner
    share = shape.parameters / learner.ranks
    kept = 0.0 if learner.offload_parameters else share
    state = 0.0 if learner.offload_optimizer else trained_parameters(recipe, shape) / learner.ranks
    ranks = f"learner.ranks ({learner.ranks})"
    state_knob, weight_knob = ranks, ranks
    if on_gpu:
        state_knob, weight_knob = f"{ranks}, learner.offload_optimizer", f"{ranks}, learner.offload_parameters"
    whole = min(_LIVE_PARAMETERS, shape.parameters)
    parts: tuple[Part, ...] = (
        Part(name="weights", bytes=wide * kept, formula=f"{wide} N/R", knob=weight_knob),
        Part(name="fp32 masters", bytes=4 * state, formula="4 n/R", knob=state_knob),
        Part(name="Adam moments", bytes=8 * state, formula="8 n/R", knob=state_knob),
        Part(name="gradients", bytes=4 * state, formula="4 n/R, summed in fp32", knob=state_knob),
        Part(
            name="reduce bucket",
            bytes=4 * min(REDUCE_BUCKET, shape.parameters),
            formula=f"4 x min(N, {REDUCE_BUCKET / 1e6:g} M)",
            knob=FIXED,
        ),
        Part(
            name="layers made whole",
            bytes=wide * whole,
            formula=f"{wide} x min(N, {_LIVE_PARAMETERS / 1e9:g} B)",
            knob="learner.dtype",
        ),
    )
    if not on_gpu:
        parts += (
            Part(
                name="weights handed out",
                bytes=2 * wide * sent_parameters(recipe, shape),
                formula=f"2 x {wide} {'n' if learner.sends_adapter else 'N'}",
                knob=FIXED if learner.lora is None or learner.sends_adapter else "learner.lora.sync",
            ),
        )
    if recipe.grpo.kl.coefficient and learner.lora is None:
        copy = 0.0 if recipe.grpo.kl.offload else wide * share
        knob = "grpo.kl.offload" if on_gpu else "grpo.kl.coefficient"
        parts += (Part(name="reference", bytes=copy, formula=f"{wide} N/R", knob=knob),)
    return Need(
        who="learner rank",
        count=learner.ranks,
        on_gpu=on_gpu,
        parts=parts + backward_parts(recipe, shape, wide),
    )


def offloaded_bytes(recipe: Recipe, shape: ModelShape, wide: int) -> float:
    """Host memory of one rank with a GPU: masters, Adam's moments and gradients in fp32, parameters, the reference."""
    learner = recipe.learner
    weights = wide * shape.parameters / learner.ranks
    state = 16 * trained_parameters(recipe, shape) / learner.ranks
    copied = bool(recipe.grpo.kl.coefficient) and recipe.grpo.kl.offload
    return state * learner.offload_optimizer + weights * (learner.offload_parameters + copied)


def trained_parameters(recipe: Recipe, shape: ModelShape) -> float:
    """n: all of the model, or rank x (inputs + outputs) of every layer that has an adapter."""
    lora = recipe.learner.lora
    if lora is None:
        return float(shape.parameters)
    ends = adapter_ends(shape)
    named = ends if lora.targets == ("all-linear",) else lora.targets
    return float(lora.rank * shape.layers * sum(ends.get(name, 0) for name in named))


def adapter_ends(shape: ModelShape) -> dict[str, int]:
    """Inputs and outputs together of every linear layer that an adapter may be on, by name."""
    hidden, query, key, wide = shape.hidden, shape.query_width, shape.kv_width, shape.feed_forward
    return {
        "q_proj": hidden + query,
        "k_proj": hidden + key,
        "v_proj": hidden + key,
        "o_proj": query + hidden,
        "gate_proj": hidden + wide,
        "up_proj": hidden + wide,
        "down_proj": wide + hidden,
    }


def sent_parameters(recipe: Recipe, shape: ModelShape) -> float:
    """Numbers of a weight update: n where only the adapter travels, else N."""
    return trained_parameters(recipe, shape) if recipe.learner.sends_adapter else float(shape.parameters)


def _largest_sent(recipe: Recipe, shape: ModelShape) -> int:
    """Elements of the largest tensor of an update."""
    lora = recipe.learner.lora
    if lora is None or not recipe.learner.sends_adapter:
        return shape.largest_tensor
    return lora.rank * max(shape.hidden, shape.query_width, shape.feed_forward)


def backward_parts(recipe: Recipe, shape: ModelShape, wide: int) -> tuple[Part, ...]:
    """What a micro-batch holds until its backward pass is done."""
    learner, tokens = recipe.learner, micro_batch_tokens(recipe)
    layer = layer_activation_bytes(shape, wide)
    # The layer whose backward pass runs has its gradients beside what it kept: one layer more.
    per_token = (shape.layers + 1) * layer
    formula = f"T = {tokens}, x (L + 1) x {layer / 1024:.0f} KiB"
    if learner.activation_checkpointing:
        per_token = shape.layers * shape.hidden * wide + 2 * layer
        formula = f"T = {tokens}, x (L x {shape.hidden * wide / 1024:.1f} + 2 x {layer / 1024:.0f}) KiB"
    knob = f"learner.max_tokens_per_micro_batch ({learner.max_tokens_per_micro_batch})"
    scored = min(tokens, math.ceil(tokens * recipe.rollouts.max_completion_tokens / recipe.max_model_tokens))
    chunk = min(learner.logits_chunk_mib * MIB, 4 * scored * shape.vocabulary)
    return (
        Part(
            name="activations",
            bytes=_GAPS * tokens * per_token,
            formula=f"{formula} x {_GAPS}",
            knob=knob if learner.activation_checkpointing else f"{knob}, learner.activation_checkpointing",
        ),
        Part(
            name="logits, a chunk",
            bytes=2.5 * chunk + 4 * shape.vocabulary * shape.hidden,
            formula=f"2.5 x {chunk / MIB:.0f} MiB + gradient of the output layer",
            knob="learner.logits_chunk_mib",
        ),
    )


def layer_activation_bytes(shape: ModelShape, wide: int) -> float:
    """Bytes per token that one layer keeps for its backward pass, as transformers' Llama and Qwen2 do.

    Two norms keep their input in fp32 and, beside the linear layers' input, their output; attention keeps query, key,
    value and its output; the gated layer keeps gate, SiLU, up and their product.
    """
    norms = 2 * (4 + 2 * wide) * shape.hidden
    attention = wide * (3 * shape.query_width + 2 * shape.kv_width)
    return norms + attention + 4 * wide * shape.feed_forward


# --- the engines ------------------------------------------------------------------------------------------------------


def engine_need(recipe: Recipe, shape: ModelShape, *, on_gpu: bool, gpu_bytes: float) -> tuple[Need, int]:
    """Memory of one engine (of one of its GPUs), and the tokens that its KV cache holds."""
    rollouts = recipe.rollouts
    wide = element_bytes(rollouts.dtype, on_gpu=on_gpu)
    split = rollouts.tensor_parallel if on_gpu else 1
    weights = wide * shape.parameters / split
    batched = max(_BATCHED_TOKENS, recipe.max_model_tokens)
    # Two layers' states of one prefill; of the sampler, ten fp32 copies of the logits of all running sequences.
    layer = wide * (4 * shape.hidden + (shape.query_width + 2 * shape.kv_width + 3 * shape.feed_forward) / split)
    working = 2 * batched * layer + 40 * rollouts.max_concurrent_requests * shape.vocabulary
    per_token = 2 * wide * shape.layers * shape.kv_width / min(split, shape.kv_heads)
    if on_gpu:
        cache = max(0.0, rollouts.gpu_memory_fraction * gpu_bytes - weights - working) if gpu_bytes else 0.0
        knob = f"rollouts.gpu_memory_fraction ({rollouts.gpu_memory_fraction:g})"
    else:
        cache, knob = rollouts.kv_cache_gib * GIB, f"rollouts.kv_cache_gib ({rollouts.kv_cache_gib:g})"
    tensor_parallel = f"rollouts.tensor_parallel ({rollouts.tensor_parallel})" if on_gpu else "rollouts.dtype"
    parts: tuple[Part, ...] = (
        Part(name="weights", bytes=weights, formula=f"{wide} N" + f" / {split}" * (split > 1), knob=tensor_parallel),
        Part(name="KV cache", bytes=cache, formula=f"{per_token / 1024:.1f} KiB per token", knob=knob),
        Part(
            name="working memory",
            bytes=working,
            formula=f"{batched} tokens of prefill, sampling",
            knob="rollouts.max_concurrent_requests",
        ),
    )
    if not on_gpu:
        copies = 2 if recipe.learner.sends_adapter else 1
        formula = f"{copies} x {wide} N"
        parts += (Part(name="weights coming in", bytes=copies * weights, formula=formula, knob="rollouts.dtype"),)
    count = rollouts.actors * split
    return Need(who="engine", count=count, on_gpu=on_gpu, parts=parts), int(cache // per_token)


# --- what cannot be ---------------------------------------------------------------------------------------------------


def misfits(
    recipe: Recipe,
    shape: ModelShape,
    sizing: Sizing,
    *,
    gpu_bytes: float = 0.0,
    host_bytes: float = 0.0,
    gpus_here: int = 1,
) -> list[tuple[str, str]]:
    """(problem, remedy) of everything that cannot fit; the remedy names the recipe key. 0 bytes = not known.

    ``gpus_here``: as many ranks share the ``host_bytes`` of one machine at most.
    """
    found: list[tuple[str, str]] = []
    longest = recipe.max_model_tokens
    limits = "rollouts.max_prompt_tokens or rollouts.max_completion_tokens"
    if longest > shape.max_positions:
        found.append(
            (f"prompt and completion have {longest} tokens, the model takes {shape.max_positions}", f"lower {limits}")
        )
    rooms = (
        (sizing.learner, gpu_bytes - GPU_RESERVE),
        (sizing.engine, recipe.rollouts.gpu_memory_fraction * gpu_bytes),
    )
    found += [_too_big(need, room) for need, room in rooms if need.on_gpu and gpu_bytes and need.peak > room]
    together = min(gpus_here, recipe.learner.ranks) * (sizing.offloaded + HOST_BASELINE["learner rank"])
    together += sizing.object_store + HOST_BASELINE["everything else"]
    if host_bytes and sizing.offloaded and together > host_bytes:
        found.append(
            (
                f"a run with ZeRO-Offload needs {together / GIB:.1f} GiB of this machine's memory, it has "
                f"{host_bytes / GIB:.1f} GiB",
                "change learner.ranks, learner.offload_optimizer, learner.offload_parameters or grpo.kl.offload",
            )
        )
    found += _undivided(recipe.rollouts.tensor_parallel, shape) if sizing.engine.on_gpu else []
    if host_bytes and sizing.on_host and sizing.host > host_bytes:
        biggest = max(sizing.on_host, key=lambda need: need.count * need.peak)
        part = max((part for part in biggest.parts if part.knob != FIXED), key=lambda part: part.bytes)
        many = {"learner rank": "learner.ranks", "engine": "rollouts.actors"}[biggest.who]
        found.append(
            (
                f"the run needs {sizing.host / GIB:.1f} GiB of memory, this machine has {host_bytes / GIB:.1f} GiB; "
                f"the largest part that can be changed is {part.name} of {biggest.count} x {biggest.who}",
                f"lower or change {part.knob}" + (f" or {many} ({biggest.count})" if biggest.count > 1 else ""),
            )
        )
    if (gpu_bytes or not sizing.engine.on_gpu) and sizing.kv_tokens < longest:
        cache = next(part for part in sizing.engine.parts if part.name == "KV cache")
        found.append(
            (
                f"the KV cache of an engine holds {sizing.kv_tokens} tokens, one sequence may have {longest}",
                f"raise {cache.knob} or lower {limits}",
            )
        )
    return found


def _undivided(split: int, shape: ModelShape) -> list[tuple[str, str]]:
    """What vLLM cannot cut into ``split`` parts; fewer key-value heads than parts are repeated, evenly."""
    fewer, more = sorted((split, shape.kv_heads))
    sizes = {
        "attention heads": shape.heads % split,
        "key-value heads": more % fewer,
        "hidden units": shape.feed_forward % split,
    }
    wrong = [name for name, rest in sizes.items() if rest]
    problem = f"rollouts.tensor_parallel {split} does not divide the model's {' and '.join(wrong)}"
    return [(problem, "set rollouts.tensor_parallel to a common divisor")] if wrong else []


def _too_big(need: Need, room: float) -> tuple[str, str]:
    """The keys named are those of the largest parts that together make up what is too much."""
    knobs: dict[str, None] = {}
    excess = need.peak - room
    for part in sorted(need.parts, key=lambda part: -part.bytes):
        if excess > 0 and part.knob != FIXED:
            knobs |= dict.fromkeys(part.knob.split(", "))
            excess -= part.bytes
    largest, article = need.largest, "an" if need.who == "engine" else "a"
    return (
        f"{article} {need.who} needs {need.peak / GIB:.1f} GiB and has {max(0.0, room) / GIB:.1f} GiB; its "
        f"largest part is {largest.name} ({largest.bytes / GIB:.1f} GiB)",
        f"change {', '.join(knobs)}",
    )
