"""The pool of rollout actors: one place that turns a question into a group of completions.

A group goes whole to the actor with the fewest outstanding tokens, as k single-sample requests: vLLM's prefix cache
then computes the shared prompt once. Plain asyncio over a small protocol, so it is tested without Ray.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Protocol

from actors.config import RolloutConfig
from data.errors import DataError, EngineError
from data.records import Completion, Group, Question
from data.wire import EngineStats, SampleRequest, SamplingSpec, WeightUpdate


class RolloutHandle(Protocol):
    """What the pool needs of an actor; `rollout_actor.RayRollouts` is the real one."""

    name: str

    async def start(self) -> EngineStats:
        """Bring the engine up."""
        ...

    async def sample(self, request: SampleRequest) -> Completion:
        """Sample one completion."""
        ...

    async def apply_update(self, update: WeightUpdate) -> float:
        """Swap in new weights; seconds."""
        ...

    async def stats(self) -> EngineStats:
        """Counters."""
        ...

    async def close(self) -> None:
        """End the engine."""
        ...


def sample_seed(run_seed: int, question_id: str, draw: int, sample_index: int) -> int:
    """A seed of 63 bits from all four and nothing else, so a run repeats on any number of actors."""
    packed = json.dumps([run_seed, question_id, draw, sample_index]).encode()
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "big") >> 1


class RolloutPool:
    """Implements `data.wire.Sampler` over rollout actors.

    Args:
        actors: at least one, all with the same model.
        encode: question -> prompt token ids.
        run_seed: seeds of samples derive from it.
        config: token limits and time-outs.
    """

    def __init__(
        self,
        actors: Sequence[RolloutHandle],
        encode: Callable[[Question], tuple[int, ...]],
        run_seed: int,
        config: RolloutConfig,
    ) -> None:
        if not actors:
            raise EngineError("the rollout pool has no actor", remedy="set rollouts.actors to at least 1")
        self._actors = tuple(actors)
        self._encode = encode
        self._run_seed = run_seed
        self._config = config
        self._outstanding = [0] * len(actors)

    async def start(self) -> tuple[EngineStats, ...]:
        """Start every engine at once; when one fails, close them all and raise its error."""
        started = await asyncio.gather(*(actor.start() for actor in self._actors), return_exceptions=True)
        for outcome in started:
            if isinstance(outcome, BaseException):
                await self.close()
                raise outcome
        return tuple(outcome for outcome in started if isinstance(outcome, EngineStats))

    async def sample_group(self, question: Question, *, draw: int, k: int, sampling: SamplingSpec) -> Group:
        """Sample ``k`` completions of one question, all on one actor.

        Raises:
            DataError: the prompt is longer than ``rollouts.max_prompt_tokens``.
            EngineError: the actor failed or took longer than ``rollouts.request_timeout_s``; the rest of the group is
                cancelled.
        """
        prompt = self._encode(question)
        if len(prompt) > self._config.max_prompt_tokens:
            raise DataError(
                f"prompt of question {question.id} ({question.stem[:60]!r}) has {len(prompt)} tokens, "
                f"rollouts.max_prompt_tokens is {self._config.max_prompt_tokens}",
                remedy="raise rollouts.max_prompt_tokens or leave the question out",
            )
        requests = [
            SampleRequest(
                question_id=question.id,
                draw=draw,
                sample_index=index,
                seed=sample_seed(self._run_seed, question.id, draw, index),
                prompt_token_ids=prompt,
                sampling=sampling,
            )
            for index in range(k)
        ]
        chosen = min(range(len(self._actors)), key=self._outstanding.__getitem__)
        # Reserved before the first await, or groups drawn at the same moment would all go to the same actor.
        self._outstanding[chosen] += sum(_cost(request) for request in requests)
        tasks = [asyncio.ensure_future(self._sample(chosen, request)) for request in requests]
        try:
            completions = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        finally:
            # Also for a task that was cancelled before its first line ran.
            self._outstanding[chosen] -= sum(_cost(r) for r, t in zip(requests, tasks, strict=True) if not _released(t))
        return Group(question=question, draw=draw, completions=tuple(completions))

    async def _sample(self, chosen: int, request: SampleRequest) -> Completion:
        try:
            async with asyncio.timeout(self._config.request_timeout_s):
                completion = await self._actors[chosen].sample(request)
        except TimeoutError as error:
            raise EngineError(
                f"rollout actor {self._actors[chosen].name} gave no completion for question {request.question_id} "
                f"within {self._config.request_timeout_s:g} s",
                remedy="raise rollouts.request_timeout_s, or lower rollouts.max_completion_tokens",
            ) from error
        self._outstanding[chosen] -= _cost(request)
        return completion

    async def publish(self, update: WeightUpdate) -> float:
        """Swap new weights into every actor at once; returns the seconds of the slowest.

        Raises:
            EngineError: the first actor that failed; the others have been waited for.
        """
        outcomes = await asyncio.gather(*(a.apply_update(update) for a in self._actors), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return max(outcome for outcome in outcomes if isinstance(outcome, float))

    async def stats(self) -> tuple[EngineStats, ...]:
        """Counters of every actor, in order."""
        return tuple(await asyncio.gather(*(actor.stats() for actor in self._actors)))

    async def close(self) -> None:
        """End every engine; a dead one does not keep the others alive."""
        await asyncio.gather(*(actor.close() for actor in self._actors), return_exceptions=True)


def _cost(request: SampleRequest) -> int:
    return len(request.prompt_token_ids) + request.sampling.max_tokens


def _released(task: asyncio.Future[Completion]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
