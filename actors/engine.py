"""One vLLM engine: requests in, completions with token ids, log-probabilities and policy versions out.

Plain asyncio around vLLM's `AsyncLLM`, without Ray. Who waits for whom
    generate      any number at once; vLLM batches them token by token. While an update runs they stand still, and go on
                  with the new weights: one completion may then hold tokens of two versions.
    apply_update  one at a time: pause (prefix cache emptied) -> per bucket: fetch, load -> label -> resume.
                  When it fails the engine shuts down, since its weights are then neither old nor new.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from actors.config import RolloutConfig
from actors.cores import CoreClaim
from actors.engine_setup import (
    ModelFiles,
    base_directory,
    check_update,
    cpu_threads,
    engine_args,
    engine_environment,
    read_model_files,
    root_cause,
    start_failure,
)
from actors.ownership import Guardian, process_stamp
from data.errors import EngineError
from data.records import FINISH_REASONS, Completion, VersionSpan
from data.wire import EngineStats, LowRankChange, SampleRequest, WeightBucket, WeightUpdate

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

FetchBucket = Callable[[WeightBucket], Awaitable[np.ndarray]]
RESTART = "resume the run; if it happens again, look at the engine's log"


class RolloutEngine:
    """A vLLM engine for one model directory.

    Args:
        config: rollout settings.
        model_dir: a local model with tokenizer and safetensors weights; these weights are policy version 0.
        seed: of the engine; requests carry their own.
        max_model_len: prompt plus completion, in tokens.
        name: for the statistics and error messages.
    """

    def __init__(
        self, config: RolloutConfig, model_dir: str, *, seed: int, max_model_len: int, name: str = "engine"
    ) -> None:
        self.config = config
        self._model_dir = model_dir
        self._seed = seed
        self._max_model_len = max_model_len
        self._name = name
        self._llm: AsyncLLM | None = None
        self._model: ModelFiles | None = None
        self._tokenizer: Any = None
        self._folder: Path | None = None
        self._guardian: Guardian | None = None
        self._claim: CoreClaim | None = None
        self._failure = "was not started"
        self._version = 0
        self._updating = asyncio.Lock()
        self._bases: dict[tuple[str, str], str] = {}
        self._requests = 0
        self._outstanding: dict[str, int] = {}
        self._generated = 0
        self._busy_seconds = 0.0
        self._busy_since = 0.0

    @property
    def version(self) -> int:
        """The policy version whose weights are loaded."""
        return self._version

    def stats(self) -> EngineStats:
        """Counters since the start; ``outstanding_tokens`` is the most that running requests may still produce."""
        running = time.monotonic() - self._busy_since if self._outstanding else 0.0
        return EngineStats(
            actor=self._name,
            version=self._version,
            running_requests=len(self._outstanding),
            outstanding_tokens=sum(self._outstanding.values()),
            generated_tokens=self._generated,
            busy_seconds=self._busy_seconds + running,
        )

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the model and come up.

        Raises:
            EngineError: the model is unreadable, memory is short, or ``start_timeout_s`` is over; no process is left.
        """
        self._model = await asyncio.to_thread(read_model_files, self._model_dir)
        before = {child.pid for child in psutil.Process().children(recursive=True)}
        self._folder = Path(tempfile.mkdtemp(prefix="fleming-engine-"))
        self._guardian = await asyncio.to_thread(Guardian)
        try:
            async with asyncio.timeout(self.config.start_timeout_s):
                self._tokenizer = await asyncio.to_thread(_load_tokenizer, self._model_dir)
                llm = await asyncio.to_thread(self._create, self._folder)
                self._llm = llm
                await llm.collective_rpc("watch_parent", args=(process_stamp(os.getpid()),))
                await llm.update_weight_version(str(self._version))
        except BaseException as error:
            cause = root_cause(error, self._log())
            await asyncio.to_thread(_kill_children, before)
            await self.shutdown()
            if isinstance(error, TimeoutError):
                raise EngineError(
                    f"the rollout engine did not start within {self.config.start_timeout_s:g} s",
                    remedy="raise rollouts.start_timeout_s, or free the machine",
                ) from error
            if not isinstance(error, Exception) or isinstance(error, EngineError):
                raise
            raise start_failure(cause, self._model_dir) from error
        self._failure = ""

    def _log(self) -> str:
        """What vLLM's processes logged: warnings and errors."""
        path = self._folder / "vllm.log" if self._folder else None
        return path.read_text(errors="replace") if path and path.exists() else ""

    def _create(self, folder: Path) -> AsyncLLM:
        if self.config.bind_cores:
            self._claim = CoreClaim(cpu_threads(self.config))
        with engine_environment(self.config, folder, self._claim.cores if self._claim else ()):
            from vllm.platforms import current_platform
            from vllm.v1.engine.async_llm import AsyncLLM

            args = engine_args(
                self.config,
                self._model_dir,
                seed=self._seed,
                max_model_len=self._max_model_len,
                on_cpu=current_platform.is_cpu(),
            )
            return AsyncLLM.from_engine_args(args)

    async def shutdown(self) -> None:
        """End vLLM's processes; requests still running get an EngineError."""
        self._failure = self._failure or "was shut down"
        if self._llm is not None:
            llm, self._llm = self._llm, None
            await asyncio.to_thread(llm.shutdown)
        if self._guardian is not None:
            guardian, self._guardian = self._guardian, None
            await asyncio.to_thread(guardian.dismiss)
        if self._claim is not None:
            self._claim.release()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _ready(self) -> AsyncLLM:
        if self._llm is None or self._failure:
            raise EngineError(f"rollout engine {self._name} {self._failure}", remedy=RESTART)
        return self._llm

    # --- sampling -------------------------------------------------------------------------------------------------

    async def generate(self, request: SampleRequest) -> Completion:
        """Sample one completion. Cancelling the call aborts the request inside vLLM.

        Raises:
            EngineError: prompt and completion do not fit the engine, or the engine is dead.
        """
        llm = self._ready()
        room = len(request.prompt_token_ids) + request.sampling.max_tokens
        if room > self._max_model_len or not request.prompt_token_ids:
            raise EngineError(
                f"question {request.question_id}: {len(request.prompt_token_ids)} prompt tokens and up to "
                f"{request.sampling.max_tokens} more do not fit the engine's {self._max_model_len}",
                remedy="lower rollouts.max_prompt_tokens or rollouts.max_completion_tokens, and send no empty prompt",
            )
        self._requests += 1
        key = f"{request.question_id}/{request.draw}/{request.sample_index}/{self._requests}"
        if not self._outstanding:
            self._busy_since = time.monotonic()
        self._outstanding[key] = request.sampling.max_tokens
        try:
            output = await self._sample(llm, key, request)
        finally:
            del self._outstanding[key]
            if not self._outstanding:
                self._busy_seconds += time.monotonic() - self._busy_since
        self._generated += len(output.token_ids)
        return self._completion(request, output)

    async def _sample(self, llm: AsyncLLM, key: str, request: SampleRequest) -> CompletionOutput:
        prompt: Any = {"prompt_token_ids": list(request.prompt_token_ids)}
        final = None
        try:
            async for output in llm.generate(prompt, self._params(request), key):
                final = output
        except Exception as error:
            why = self._failure or f"failed in mid-request ({root_cause(error, self._log())})"
            raise EngineError(f"rollout engine {self._name} {why}", remedy=RESTART) from error
        if final is None or final.outputs[0].finish_reason not in FINISH_REASONS:
            state = final.outputs[0].finish_reason if final else "nothing"
            raise EngineError(f"completion {key} ended with {state!r}", remedy=RESTART)
        return final.outputs[0]

    def _params(self, request: SampleRequest) -> SamplingParams:
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        assert self._model is not None
        return SamplingParams(
            temperature=request.sampling.temperature,
            max_tokens=request.sampling.max_tokens,
            top_p=1.0,
            top_k=0,
            seed=request.seed,
            logprobs=0,  # the sampled token only
            detokenize=False,
            stop_token_ids=list(self._model.eos_token_ids),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _completion(self, request: SampleRequest, output: CompletionOutput) -> Completion:
        ids = tuple(output.token_ids)
        logprobs: Any = output.logprobs
        versions = output.weight_versions or ()
        return Completion(
            question_id=request.question_id,
            draw=request.draw,
            sample_index=request.sample_index,
            seed=request.seed,
            prompt_token_ids=request.prompt_token_ids,
            token_ids=ids,
            logprobs=tuple(float(np.float32(logprobs[i][token].logprob)) for i, token in enumerate(ids)),
            version_spans=tuple(VersionSpan(start=s.start, end=s.end, version=int(s.version)) for s in versions),
            finish_reason="stop" if output.finish_reason == "stop" else "length",
            text=self._decode(ids),
        )

    def _decode(self, ids: tuple[int, ...]) -> str:
        """Text for verifiers: all that the model wrote, special tokens too, less the end-of-sequence ids at the end."""
        assert self._model is not None
        end = len(ids)
        while end and ids[end - 1] in self._model.eos_token_ids:
            end -= 1
        kept = list(ids[:end])
        return str(self._tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    # --- weights --------------------------------------------------------------------------------------------------

    async def apply_update(self, update: WeightUpdate, fetch: FetchBucket) -> float:
        """Swap in the weights of ``update.version`` and return the seconds it took. ``fetch`` brings a bucket's bytes.

        Raises:
            EngineError: the update does not fit the model (nothing is changed then), or loading failed or took longer
                than ``update_timeout_s`` (the engine is shut down then).
        """
        check_update(update, self._model_files)
        change = update.low_rank
        sum_with = {} if change is None else {"base": await self._base(change), "scaling": change.scaling}
        async with self._updating:
            llm = self._ready()
            started = time.monotonic()
            try:
                async with asyncio.timeout(self.config.update_timeout_s):
                    await self._load(llm, update, fetch, sum_with)
            except BaseException as error:
                what = "timed out" if isinstance(error, TimeoutError) else f"failed ({root_cause(error, self._log())})"
                self._failure = f"stopped: weight update {update.version} {what}"
                await self.shutdown()
                if not isinstance(error, Exception):
                    raise
                raise EngineError(f"rollout engine {self._name} {self._failure}", remedy=RESTART) from error
            self._version = update.version
            return time.monotonic() - started

    @property
    def _model_files(self) -> ModelFiles:
        if self._model is None:
            raise EngineError(f"rollout engine {self._name} {self._failure}", remedy="call start() first")
        return self._model

    async def _base(self, change: LowRankChange) -> str:
        """The base of ``change`` on this node, looked for once."""
        key = (change.base, change.fingerprint)
        if key not in self._bases:
            self._bases[key] = await asyncio.to_thread(base_directory, change, self._model_files)
        return self._bases[key]

    async def _load(self, llm: AsyncLLM, update: WeightUpdate, fetch: FetchBucket, sum_with: dict[str, Any]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        from actors.weight_transfer import StagedBucket

        await self._pause(llm)
        await llm.start_weight_update()
        for bucket in update.buckets:
            with StagedBucket(bucket, await fetch(bucket)) as staged:
                await llm.update_weights(WeightTransferUpdateRequest(update_info=staged.update_info() | sum_with))
        await llm.finish_weight_update(weight_version=str(update.version))
        await llm.resume_generation()

    async def _pause(self, llm: AsyncLLM) -> None:
        # Clearing the cache also preempts running requests, which then recompute their keys and values with the new
        # weights; without it blocks of the old weights would answer for the new ones.
        await llm.pause_generation(mode="keep", clear_cache=True)

    # --- vLLM's own trainer engines (config.weight_transfer == "nccl") ---------------------------------------------

    async def init_weight_transfer_engine(self, request: Any) -> None:
        """Join the trainer's transfer group."""
        async with asyncio.timeout(self.config.update_timeout_s):
            await self._ready().init_weight_transfer_engine(request)

    async def start_weight_update(self) -> None:
        """Stop generation and make ready to receive."""
        llm = self._ready()
        await self._pause(llm)
        await llm.start_weight_update()

    async def update_weights(self, request: Any) -> None:
        """Receive weights while the trainer broadcasts. A peer that fails would block for ever, so it is timed."""
        async with asyncio.timeout(self.config.update_timeout_s):
            await self._ready().update_weights(request)

    async def finish_weight_update(self) -> None:
        """All weights are there. Generation stays paused: the trainer's engine does not say which version they are."""
        await self._ready().finish_weight_update()

    async def update_weight_version(self, new_version: str) -> None:
        """Label the weights received, then let generation go on."""
        llm = self._ready()
        await llm.update_weight_version(new_version)
        self._version = int(new_version)
        await llm.resume_generation()


def _load_tokenizer(model_dir: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model_dir, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers raises whatever its tokenizer classes raise
        raise EngineError(
            f"the tokenizer in {model_dir} is unreadable ({type(error).__name__}: {error})",
            remedy="save the tokenizer again with save_pretrained",
        ) from error


def _kill_children(before: set[int]) -> None:
    """End what a failed start left behind: every descendant that was not there before."""
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    for child in left:
        child.kill()
    psutil.wait_procs(left, timeout=10)
