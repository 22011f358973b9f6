"""Does a model keep the completions of a packed row apart? Asked of the model itself, before it trains.

Attention is kept apart by `learner.segments`. Whatever else passes on state from token to token (a convolution, a
state-space layer, linear attention, attention that takes no attention interface) reads on into the next completion, and
nothing in the model's answer shows it. So the same packed row is scored with another completion in front: what stands
behind must not notice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from data.errors import SetupError
from data.wire import TrainSequence

BOUND = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Nats per token, in the mean. Attention kept apart differs by nothing at all, the routing of experts by rounding."""


def check_packing(
    logprobs: Callable[[Sequence[TrainSequence]], torch.Tensor], vocabulary: int, dtype: torch.dtype
) -> None:
    """Refuse a model whose packed completions are not scored each by itself; a collective.

    Raises:
        SetupError: scores differ from one time to the next, or with the completion that stands in front.
    """
    first, again, other = (logprobs(_rows(vocabulary, front))[1:] for front in (0, 0, 7))
    random, leaked = (float((first - scores).abs().mean()) for scores in (again, other))
    if random > BOUND[dtype]:
        raise SetupError(
            f"the model scores the same tokens differently each time it is asked, by {random:.2g} nats per token",
            remedy="switch off what is random in its config.json (dropout, layer dropping)",
        )
    if leaked > BOUND[dtype]:
        raise SetupError(
            "the model does not keep the completions of a packed row apart: with other tokens in front, "
            f"log-probabilities change by {leaked:.2g} nats per token",
            remedy="train a decoder whose only way from token to token is attention (Llama, Qwen2, Qwen3 ...): "
            "state-space, convolutional and linear-attention layers read on over the end of a completion",
        )


def _rows(vocabulary: int, front: int) -> list[TrainSequence]:
    """Two completions of one prompt and one of another, eight tokens each; ``front`` moves the tokens of the first."""

    def ids(start: int, count: int) -> tuple[int, ...]:
        return tuple((start + 7919 * at) % vocabulary for at in range(count))

    parts = [(ids(3, 8), ids(11 + front, 8)), (ids(3, 8), ids(5, 8)), (ids(29, 8), ids(17, 8))]
    return [
        TrainSequence(
            prompt_token_ids=prompt, token_ids=tokens, sampled_logprobs=(0.0,) * 8, advantage=0.0, coefficient=0.0
        )
        for prompt, tokens in parts
    ]
