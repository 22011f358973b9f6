"""The switches of the GRPO family against references written out token by token, in fp64 and plain Python."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.advantages import STD_EPSILON, group_advantages
from learner.aggregation import token_weights
from learner.config import Aggregation, GrpoConfig, ImportanceWeights, KlEstimator
from learner.loss import grpo_loss, importance_weights, kl_estimate

AGGREGATIONS: list[Aggregation] = ["sequence_sum", "token_mean", "sequence_mean", "constant_length"]
WEIGHTS: list[ImportanceWeights] = ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
ESTIMATORS: list[KlEstimator] = ["k1", "k2", "k3"]


def value_of(grpo: GrpoConfig, row: dict[str, Any], current: list[float]) -> float:
    """Sum over the tokens of one completion of the term in the brackets at the head of `learner.loss`."""
    proximal, sampled, reference = row["proximal"], row["sampled"], row["reference"]
    n, advantage = len(current), row["advantage"]
    weights = [math.exp(p - s) for p, s in zip(proximal, sampled, strict=True)]
    if grpo.importance_weights.startswith("sequence"):
        weights = [math.prod(weights)] * n
    if grpo.importance_weights.endswith("truncate"):
        weights = [min(w, grpo.max_importance_weight) for w in weights]
    else:
        weights = [w if grpo.min_importance_weight <= w <= grpo.max_importance_weight else 0.0 for w in weights]
    ratios = [math.exp(c - p) for c, p in zip(current, proximal, strict=True)]
    if grpo.ratio == "sequence":
        ratios = [math.prod(ratios) ** (1.0 / n)] * n
    total = 0.0
    for t in range(n):
        clipped = min(max(ratios[t], 1 - grpo.clip_low), 1 + grpo.clip_high)
        total += weights[t] * min(ratios[t] * advantage, clipped * advantage)
        d = current[t] - reference[t]
        kl = {"k1": d, "k2": d * d / 2, "k3": math.exp(-d) - 1 + d}[grpo.kl.estimator]
        total += grpo.entropy_coefficient * row["entropy"][t] - grpo.kl.coefficient * kl
    return total


def slope_of(grpo: GrpoConfig, row: dict[str, Any], current: list[float], t: int) -> float:
    """Derivative of `value_of` by ``current[t]``, by central differences; k1 has the documented slope, that of k2."""
    if grpo.kl.estimator == "k1":
        grpo = grpo.model_copy(update={"kl": grpo.kl.model_copy(update={"estimator": "k2"})})
    h = 1e-6
    high, low = list(current), list(current)
    high[t] += h
    low[t] -= h
    return (value_of(grpo, row, high) - value_of(grpo, row, low)) / (2 * h)


switches = st.fixed_dictionaries(
    {
        "ratio": st.sampled_from(["token", "sequence"]),
        "importance_weights": st.sampled_from(WEIGHTS),
        "kl": st.fixed_dictionaries(
            {"coefficient": st.sampled_from([0.0, 0.4]), "estimator": st.sampled_from(ESTIMATORS)}
        ),
        "entropy_coefficient": st.sampled_from([0.0, 0.2]),
        "clip_low": st.sampled_from([0.1, 0.3]),
        "clip_high": st.sampled_from([0.15, 0.4]),
    }
)


@settings(deadline=None, max_examples=100)
@given(switches, st.sampled_from(AGGREGATIONS), st.integers(0, 2**31))
def test_every_combination_has_the_reference_s_loss_and_gradient(
    values: dict[str, Any], aggregation: Aggregation, seed: int
) -> None:
    masks = values["importance_weights"].endswith("mask")
    grpo = GrpoConfig.model_validate({**values, "min_importance_weight": 0.8 if masks else 0.0})
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int, scale: float, shift: float = 0.0) -> list[float]:
        drawn: list[float] = (torch.randn(n, generator=generator, dtype=torch.float64) * scale + shift).tolist()
        return drawn

    lengths = torch.randint(1, 8, (4,), generator=generator).tolist()
    rows, currents = [], []
    for n in lengths:
        current = draw(n, 0.5, -2.0)
        row: dict[str, Any] = {"advantage": draw(1, 1.0)[0], "entropy": [abs(v) for v in draw(n, 1.0)]}
        row |= {key: [c + d for c, d in zip(current, draw(n, 0.2), strict=True)] for key in ("proximal", "reference")}
        row["sampled"] = [p + d for p, d in zip(row["proximal"], draw(n, 0.3), strict=True)]
        rows.append(row)
        currents.append(current)
    weights = token_weights([1.0, 1.0, 2.0, 0.5], lengths, aggregation, completion_budget=9)

    def grid(lists: list[list[float]]) -> torch.Tensor:
        filled = [values + [math.nan] * (max(lengths) - len(values)) for values in lists]  # padding must not matter
        return torch.tensor(filled, dtype=torch.float64)

    current, entropy = grid(currents).requires_grad_(), grid([row["entropy"] for row in rows]).requires_grad_()
    mask = ~torch.isnan(current.detach())
    loss, stats = grpo_loss(
        current,
        grid([row["sampled"] for row in rows]),
        grid([row["proximal"] for row in rows]),
        torch.tensor([row["advantage"] for row in rows], dtype=torch.float64),
        torch.tensor(weights, dtype=torch.float64),
        mask,
        grpo,
        reference_logprobs=grid([row["reference"] for row in rows]),
        entropy=entropy,
    )
    loss.backward()
    expected = -sum(w * value_of(grpo, row, c) for w, row, c in zip(weights, rows, currents, strict=True))
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    assert current.grad is not None
    for index, (row, own) in enumerate(zip(rows, currents, strict=True)):
        for t in range(len(own)):
            slope = -weights[index] * slope_of(grpo, row, own, t)
            assert current.grad[index, t].item() == pytest.approx(slope, abs=1e-5), (index, t)
    assert not current.grad[~mask].any()
    if grpo.entropy_coefficient:
        assert entropy.grad is not None
        each = torch.tensor(weights, dtype=torch.float64)[:, None] * -grpo.entropy_coefficient
        torch.testing.assert_close(entropy.grad, (each * mask).to(torch.float64))
    assert stats.tokens == sum(lengths)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.sampled_from(AGGREGATIONS), st.floats(0.1, 10))
def test_aggregations_weigh_as_they_say(lengths: list[int], aggregation: Aggregation, scale: float) -> None:
    weights = token_weights([scale] * len(lengths), lengths, aggregation, completion_budget=30)
    count = len(lengths)
    per_sequence = [w * n for w, n in zip(weights, lengths, strict=True)]
    if aggregation == "sequence_sum":
        assert weights == pytest.approx([1 / count] * count)
    elif aggregation == "constant_length":
        assert weights == pytest.approx([1 / count / 30] * count)
    else:
        assert math.fsum(per_sequence) == pytest.approx(1.0)  # a constant term has itself as its mean
        even = per_sequence if aggregation == "sequence_mean" else weights
        assert even == pytest.approx([even[0]] * count)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=12).filter(lambda r: max(r) - min(r) > 1e-3))
def test_standardised_advantages_have_unit_spread(rewards: list[float]) -> None:
    advantages = group_advantages(rewards, "standardised")
    mean = sum(rewards) / len(rewards)
    spread = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))
    assert sum(advantages) == pytest.approx(0.0, abs=1e-9)
    assert advantages == pytest.approx([(r - mean) / (spread + STD_EPSILON) for r in rewards])
    shifted = group_advantages([r + 1.0 for r in rewards], "standardised")
    assert shifted == pytest.approx(advantages, abs=1e-6)


def test_a_group_without_spread_stays_at_zero() -> None:
    assert group_advantages([0.1] * 5, "standardised") == (0.0,) * 5
    assert group_advantages([0.7], "standardised") == (0.0,)


def test_masks_drop_what_leaves_the_band() -> None:
    gap = torch.tensor([[0.0, math.log(3.0)], [math.log(0.25), math.log(1.5)]])
    mask = torch.ones(2, 2, dtype=torch.bool)

    def weights(kind: ImportanceWeights) -> list[list[float]]:
        rows: list[list[float]] = importance_weights(gap, mask, kind, low=0.5, high=2.0).tolist()
        return [[round(w, 5) for w in row] for row in rows]

    assert weights("token_truncate") == [[1.0, 2.0], [0.25, 1.5]]
    assert weights("token_mask") == [[1.0, 0.0], [0.0, 1.5]]
    assert weights("sequence_truncate") == [[2.0], [0.375]]
    assert weights("sequence_mask") == [[0.0], [0.0]]


def test_masked_tokens_are_counted_and_teach_nothing() -> None:
    current = torch.zeros(1, 3, requires_grad=True)
    sampled = torch.tensor([[0.0, -math.log(5.0), math.log(5.0)]])
    grpo = GrpoConfig(importance_weights="token_mask", min_importance_weight=0.5, max_importance_weight=2.0)
    one = torch.ones(1)
    loss, stats = grpo_loss(current, sampled, None, one, one, torch.ones(1, 3), grpo)
    loss.backward()
    assert current.grad is not None and current.grad.tolist() == [[-1.0, 0.0, 0.0]]
    assert stats.as_metrics()["masked_fraction"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_mean_of_an_estimator_s_gradient_is_that_of_a_divergence(estimator: KlEstimator) -> None:
    """Over a distribution that can be summed up: k1 and k2 pull like KL(p || q), k3 like KL(q || p)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, generator=generator, dtype=torch.float64).requires_grad_()
    reference = torch.log_softmax(torch.randn(6, generator=generator, dtype=torch.float64), dim=0)
    logp = torch.log_softmax(logits, dim=0)
    p, q = logp.detach().exp(), reference.exp()
    estimate = kl_estimate(logp, reference, estimator)
    (got,) = torch.autograd.grad((p * estimate).sum(), logits, retain_graph=True)
    exact = (logp.exp() * (logp - reference)).sum() if estimator != "k3" else (q * (reference - logp)).sum()
    (expected,) = torch.autograd.grad(exact, logits)
    torch.testing.assert_close(got, expected)
    if estimator != "k2":
        assert (p * estimate.detach()).sum().item() == pytest.approx((p * (logp.detach() - reference)).sum().item())


def test_gspo_first_step_with_sequence_sum_is_the_paper() -> None:
    """On-policy the geometric-mean ratio times the length has the gradient of the summed log-probabilities."""
    logprobs = torch.tensor([[-1.0, -2.0, -0.3], [-0.5, 0.0, 0.0]], requires_grad=True)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    advantages, share = torch.tensor([0.5, -0.5]), torch.tensor([0.5, 0.5])
    loss, _ = grpo_loss(logprobs, logprobs.detach(), None, advantages, share, mask, GrpoConfig(ratio="sequence"))
    loss.backward()
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, torch.tensor([[-0.25, -0.25, -0.25], [0.25, 0.0, 0.0]]))
