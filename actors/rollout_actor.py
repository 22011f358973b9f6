"""A `RolloutEngine` as a Ray actor, and the plain handle that the rest of the system talks to."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.config import RolloutConfig
from actors.engine import RolloutEngine
from data.code import check_code, code_hash
from data.errors import EngineError, FlemingError
from data.places import place
from data.records import Completion
from data.storage import local_copy
from data.wire import EngineStats, SampleRequest, WeightBucket, WeightUpdate

T = TypeVar("T")


class RolloutActor:
    """Thin async Ray actor around one engine; a Ray class through `create_rollout_actors`.

    The last five methods are what vLLM's own trainer engines call on a Ray actor (``weight_transfer: nccl``, fixed
    pools of GPUs). That path is checked against vLLM's classes without a GPU; it has not run on hardware.
    """

    def __init__(self, name: str, config: RolloutConfig, model_dir: str, seed: int, max_model_len: int) -> None:
        self._name = name
        self._engine = RolloutEngine(config, local_copy(model_dir), seed=seed, max_model_len=max_model_len, name=name)

    async def start(self, code: str) -> EngineStats:
        """Bring the engine up, unless this process has other code than the driver, whose hash is ``code``."""
        check_code(code, self._name)
        await self._engine.start()
        return self._engine.stats()

    async def sample(self, request: SampleRequest) -> Completion:
        return await self._engine.generate(request)

    async def apply_update(self, update: WeightUpdate) -> float:
        """Fetch and load the buckets one at a time, so that one bucket at most is in this process. Returns seconds."""
        return await self._engine.apply_update(update, _fetch)

    async def stats(self) -> EngineStats:
        return self._engine.stats()

    async def close(self) -> None:
        await self._engine.shutdown()

    async def init_weight_transfer_engine(self, request: Any) -> None:
        await self._engine.init_weight_transfer_engine(request)

    async def start_weight_update(self) -> None:
        await self._engine.start_weight_update()

    async def update_weights(self, request: Any) -> None:
        await self._engine.update_weights(request)

    async def finish_weight_update(self) -> None:
        await self._engine.finish_weight_update()

    async def update_weight_version(self, new_version: str) -> None:
        await self._engine.update_weight_version(new_version)


async def _fetch(bucket: WeightBucket) -> np.ndarray:
    ref: Any = bucket.ref
    return np.asarray(await ref)


class RayRollouts:
    """A rollout actor seen from outside: awaitable methods and errors of our own tree. Cancelling a call cancels it
    in the actor too."""

    def __init__(self, name: str, handle: Any, placement_group: Any = None) -> None:
        self.name = name
        self.handle = handle
        self._placement_group = placement_group

    async def start(self) -> EngineStats:
        return await self._call(self.handle.start.remote(code_hash()))

    async def sample(self, request: SampleRequest) -> Completion:
        return await self._call(self.handle.sample.remote(request))

    async def apply_update(self, update: WeightUpdate) -> float:
        return await self._call(self.handle.apply_update.remote(update))

    async def stats(self) -> EngineStats:
        return await self._call(self.handle.stats.remote())

    async def close(self) -> None:
        """End the engine, then the actor; one that is dead already is fine."""
        with contextlib.suppress(EngineError):
            await self._call(self.handle.close.remote())
        ray.kill(self.handle)
        if self._placement_group is not None:
            remove_placement_group(self._placement_group)

    async def _call(self, ref: Awaitable[T]) -> T:
        done = False
        try:
            result = await ref
            done = True
            return result
        except RayTaskError as error:
            done = True
            if isinstance(error.cause, FlemingError):
                raise error.cause from None
            raise
        except RayError as error:
            done = True
            raise EngineError(
                f"rollout actor {self.name} is gone ({' '.join(str(error).split())[:300]})",
                remedy="resume the run; if memory ran out, lower rollouts.kv_cache_gib or rollouts.actors",
            ) from error
        finally:
            if not done:  # cancelled or timed out: the engine must stop decoding for nobody
                ray.cancel(ref)


def create_rollout_actors(
    config: RolloutConfig,
    model_dir: str,
    *,
    seed: int,
    max_model_len: int,
    prefix: str = "rollout",
    options: Mapping[str, Any] | None = None,
) -> list[RayRollouts]:
    """Create ``config.actors`` named Ray actors ("rollout-0" ...), not started yet.

    Each has a placement group of its name: all GPUs of an engine come from one node, and its place is kept from the
    moment it is found.

    Args:
        options: further Ray actor options, such as a scheduling strategy or a namespace.
    """
    gpus = config.tensor_parallel if ray.cluster_resources().get("GPU") else 0
    asked = place(config.cpus_per_actor, gpus, config.node_group)
    # Ray's default of 1000 calls at once would let queued samples keep out a weight update.
    base = {"num_cpus": config.cpus_per_actor, "num_gpus": gpus, "max_concurrency": 100_000, "max_restarts": 0}
    remote = ray.remote(RolloutActor)
    actors = []
    for index in range(config.actors):
        name = f"{prefix}-{index}"
        group = placement_group([asked], strategy="STRICT_PACK", name=name)
        strategy = PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=0)
        named = remote.options(**base, name=name, scheduling_strategy=strategy, **(options or {}))
        actors.append(RayRollouts(name, named.remote(name, config, model_dir, seed, max_model_len), group))
    return actors
