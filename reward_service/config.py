"""Settings of the rewards."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from data.strict import StrictModel


class RewardConfig(StrictModel):
    """Two parts only, as in the paper: correctness of the answer and adherence to the format. Nothing about length."""

    correct_weight: Annotated[float, Field(gt=0, description="reward of a right answer in the strict format")] = 1.0
    format_weight: Annotated[float, Field(ge=0, description="reward of the strict format alone")] = 0.1
    actors: Annotated[int, Field(ge=1, description="reward actors in the pool")] = 1
    cpus_per_actor: Annotated[float, Field(ge=0, description="Ray CPUs reserved per reward actor")] = 0.0
    max_text_chars: Annotated[int, Field(ge=1, description="a longer completion is malformed by definition")] = 200_000
    timeout_s: Annotated[
        float, Field(gt=0, description="seconds a group may take to score before it is retried on another actor")
    ] = 60.0
