"""The GRPO loss against an independent reference: plain Python loops, gradients derived by hand, fp64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.config import GrpoConfig
from learner.loss import LossStats, grpo_loss

PAPER = GrpoConfig(clip_low=0.2, clip_high=0.3, max_importance_weight=2.0)


def reference(
    current: list[list[float]],
    sampled: list[list[float]],
    proximal: list[list[float]],
    advantages: list[float],
    coefficients: list[float],
) -> tuple[float, list[list[float]]]:
    """Loss and its gradient by current, from ragged lists, case by case instead of by minimum and clamp."""
    loss, gradient = 0.0, []
    for row, advantage in enumerate(advantages):
        row_gradient = []
        for c, s, p in zip(current[row], sampled[row], proximal[row], strict=True):
            weight = min(math.exp(p) / math.exp(s), PAPER.max_importance_weight)
            ratio = math.exp(c) / math.exp(p)
            ceiling, floor = 1 + PAPER.clip_high, 1 - PAPER.clip_low
            if advantage > 0 and ratio > ceiling:
                value, slope = ceiling * advantage, 0.0
            elif advantage < 0 and ratio < floor:
                value, slope = floor * advantage, 0.0
            else:
                value, slope = ratio * advantage, ratio * advantage
            loss -= coefficients[row] * weight * value
            row_gradient.append(-coefficients[row] * weight * slope)
        gradient.append(row_gradient)
    return loss, gradient


def padded(rows: list[list[float]], filler: float) -> torch.Tensor:
    width = max(1, max(len(row) for row in rows))
    return torch.tensor([row + [filler] * (width - len(row)) for row in rows], dtype=torch.float32)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**31), st.booleans())
def test_loss_and_gradient_equal_the_reference(seed: int, on_policy: bool) -> None:
    torch.manual_seed(seed)
    lengths = torch.randint(0, 12, (5,)).tolist()

    def draw(shift: float) -> list[list[float]]:
        # Values that fp32 holds exactly, so that both sides see the same numbers.
        return [(-torch.rand(n) * 3 + shift).float().tolist() for n in lengths]

    current, sampled = draw(0.0), draw(0.2)
    proximal = (
        current
        if on_policy
        else [
            [c + float(d) for c, d in zip(row, (torch.randn(len(row)) * 0.3).tolist(), strict=True)] for row in current
        ]
    )
    proximal = [torch.tensor(row, dtype=torch.float32).tolist() for row in proximal]
    advantages = torch.randn(5).tolist()
    coefficients = (torch.rand(5) / 5).tolist()
    mask = padded([[1.0] * n for n in lengths], 0.0).bool()

    variable = padded(current, -1e4).requires_grad_()
    loss, stats = grpo_loss(
        variable,
        padded(sampled, float("nan")),  # what padding holds must not matter
        None if on_policy else padded(proximal, 77.0),
        torch.tensor(advantages),
        torch.tensor(coefficients),
        mask,
        PAPER,
    )
    loss.backward()
    expected_loss, expected_gradient = reference(current, sampled, proximal, advantages, coefficients)
    assert loss.item() == pytest.approx(expected_loss, abs=1e-6)
    assert variable.grad is not None
    torch.testing.assert_close(variable.grad, padded(expected_gradient, 0.0), rtol=0, atol=1e-6)
    assert stats.tokens == sum(lengths)


def test_on_policy_gradient_is_that_of_the_paper() -> None:
    """sampled = proximal = current: eq. 1, the gradient of -coefficient * advantage * sum of log-probabilities."""
    logprobs = torch.tensor([[-1.0, -2.0], [-0.5, -9.0]], requires_grad=True)
    mask = torch.tensor([[1, 1], [1, 0]])
    loss, stats = grpo_loss(
        logprobs, logprobs.detach(), None, torch.tensor([0.5, -0.5]), torch.tensor([0.5, 0.5]), mask, PAPER
    )
    loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[-0.25, -0.25], [0.25, 0.0]]
    assert loss.item() == pytest.approx(-(0.5 * 0.5 * 2 - 0.5 * 0.5 * 1))
    metrics = stats.as_metrics()
    assert (metrics["ratio_mean"], metrics["importance_weight_mean"], metrics["logprob_gap_max"]) == (1.0, 1.0, 0.0)


def test_statistics_count_what_they_say() -> None:
    """Four tokens: inside; above with a good advantage (clipped), with a bad one (not clipped); truncated weight."""
    current = torch.tensor([[0.0, math.log(2.0)], [math.log(2.0), 0.0]])
    proximal = torch.zeros(2, 2)
    sampled = torch.tensor([[0.0, 0.0], [0.0, -math.log(10.0)]])
    _, stats = grpo_loss(current, sampled, proximal, torch.tensor([1.0, -1.0]), torch.ones(2), torch.ones(2, 2), PAPER)
    metrics = stats.as_metrics()
    assert metrics["clip_fraction"] == 0.25
    assert metrics["ratio_mean"] == pytest.approx((1 + 2 + 2 + 1) / 4)
    assert metrics["importance_weight_mean"] == pytest.approx((1 + 1 + 1 + 2) / 4)
    assert metrics["logprob_gap_mean"] == pytest.approx(math.log(10.0) / 4)
    assert metrics["logprob_gap_max"] == pytest.approx(math.log(10.0))


def test_statistics_add_up() -> None:
    total = LossStats(loss=1, tokens=3, gap_max=0.5, entropy=2) + LossStats(loss=2, tokens=1, gap_max=0.1, entropy=2)
    assert (total.loss, total.tokens, total.gap_max) == (3, 4, 0.5)
    assert total.as_metrics()["entropy"] == 1.0
