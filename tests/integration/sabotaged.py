"""The real command with one thing broken, to see that the test of learning goes red.

``python -m tests.integration.sabotaged shuffle run ...`` deals the advantages of a group out at random;
``zero`` multiplies them by 0.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import replace

from cluster import controller
from cluster.cli import main
from data.records import ScoredGroup
from data.wire import TrainSequence
from learner.batching import Overlong, sequences_of
from learner.config import Advantage


def shuffled(
    groups: Sequence[ScoredGroup], overlong: Overlong = "train", advantage: Advantage = "centred"
) -> list[TrainSequence]:
    """Every group keeps its advantages, but they belong to the wrong completions."""
    rng = random.Random(0)
    result = []
    for group in groups:
        sequences = sequences_of([group], overlong, advantage)
        advantages = [sequence.advantage for sequence in sequences]
        rng.shuffle(advantages)
        share = 1.0 / (len(sequences) * len(groups))
        result += [replace(s, advantage=a, coefficient=share) for s, a in zip(sequences, advantages, strict=True)]
    return result


def zeroed(
    groups: Sequence[ScoredGroup], overlong: Overlong = "train", advantage: Advantage = "centred"
) -> list[TrainSequence]:
    """All advantages are 0."""
    return [replace(sequence, advantage=0.0) for sequence in sequences_of(groups, overlong, advantage)]


if __name__ == "__main__":
    controller.sequences_of = {"shuffle": shuffled, "zero": zeroed}[sys.argv.pop(1)]  # type: ignore[attr-defined]
    main()
