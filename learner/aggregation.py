"""How the token terms of many completions become one loss: one weight per completion, set when the batch is planned.

A loss of this project is ``sum_i w_i sum_t term_it`` over the completions i and tokens t of one optimiser step. All
aggregations differ in ``w_i`` alone, and the learner needs nothing else: so a gradient does not depend on how
completions are spread over micro-batches and ranks. ``share_i`` is 1 / (completions left in the group x groups), scaled
to sum to 1 over the completions of the optimiser step; ``n_i`` is the number of tokens of completion i.

    sequence_sum     w_i = share_i             Fleming-R1, eq. 1: log-probabilities summed per completion
    sequence_mean    w_i = share_i / n_i       GRPO, DeepSeekMath (arXiv 2402.03300), eq. 3; also that of GSPO
    token_mean       w_i = 1 / sum_j n_j       DAPO (arXiv 2503.14476), section 3.3; over the optimiser step, not each
                                               group, as TRL's "dapo" does (its "bnpo": over each rank's micro-batch)
    constant_length  w_i = share_i / L         Dr. GRPO (arXiv 2503.20783): L is the budget of completion tokens
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from learner.config import Aggregation


def token_weights(
    shares: Sequence[float], lengths: Sequence[int], aggregation: Aggregation, *, completion_budget: int = 1
) -> list[float]:
    """``w_i`` of the completions of one optimiser step.

    Args:
        shares: share of each in the batch; positive, of any sum. lengths: completion tokens of each.
        completion_budget: ``L``, tokens that a completion may have; for ``constant_length`` only.

    Example: ``token_weights([0.25, 0.25], [1, 4], "sequence_mean") == [0.5, 0.125]``.
    """
    if aggregation == "token_mean":
        return [1.0 / max(1, sum(lengths))] * len(lengths)
    total = math.fsum(shares)
    if math.isclose(total, 1.0, rel_tol=1e-12):
        total = 1.0
    scaled = [share / total for share in shares]
    if aggregation == "sequence_mean":
        return [share / max(1, length) for share, length in zip(scaled, lengths, strict=True)]
    return [share / completion_budget for share in scaled] if aggregation == "constant_length" else scaled
