"""The whole way from rewards to gradients against TRL's own code: its advantages, weights, reference and loss.

TRL gets fixed, ragged completions through its ``rollout_func``, scores them with a fixed reward, computes old and
reference log-probabilities itself, and its ``compute_loss`` runs on a model that has moved on since: so ratios differ
from 1 and clip. Our side starts from the same groups and uses the learner's packing and output layer. Everything is
fp64, so that what differs is arithmetic, not rounding. Two things work in fp32 whatever they are given: the model's
norms and positions, and TRL's output layer. Plain fp64 ones take their places, on both sides, but for one test.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm, Qwen2RotaryEmbedding

from data.records import Completion, Group, Option, Question, Score, ScoredGroup, VersionSpan
from learner.batching import plan_shards, sequences_of
from learner.config import GrpoConfig
from learner.grpo_loop import grpo_objective
from learner.scoring import install_scoring_head, score
from learner.segments import ATTENTION, register
from learner.tensors import collate
from tests.tiny_model import EOS, VOCABULARY, build_model, save_model

pytestmark = [
    pytest.mark.integration,  # importing TRL imports vLLM and DeepSpeed
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore:You are using 'rollout_func'"),
]

GROUPS, K, BUDGET = 3, 4, 12
TOLERANCE = 1e-6


def moved(model: torch.nn.Module, seed: int, size: float) -> torch.nn.Module:
    """A copy whose every weight has moved a little."""
    torch.manual_seed(seed)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return other


def ragged_groups() -> list[ScoredGroup]:
    """Prompts and completions of many lengths, one of a single token; no two groups alike in their rewards."""
    rng = random.Random(5)
    groups = []
    for index in range(GROUPS):
        options = (Option(label="A", text="a"), Option(label="B", text="b"))
        question = Question(source="test", language="en", stem=str(index), options=options, answer_label="A")
        prompt = tuple(rng.randrange(256) for _ in range(3 + 4 * index))
        completions, scores = [], []
        for sample in range(K):
            length = 1 if sample == 1 else rng.randrange(2, BUDGET + 1)
            completions.append(
                Completion(
                    question_id=question.id,
                    draw=0,
                    sample_index=sample,
                    seed=sample,
                    prompt_token_ids=prompt,
                    token_ids=(*(rng.randrange(256) for _ in range(length - 1)), EOS),
                    logprobs=tuple(-rng.uniform(4.5, 7.5) for _ in range(length)),
                    version_spans=(VersionSpan(start=0, end=length, version=0),),
                    finish_reason="stop",
                    text="",
                )
            )
            reward = rng.choice([0.0, 0.1, 1.0, 1.1]) if sample else 0.0
            scores.append(Score(correct=reward, format=0.0, reward=reward, reason="test"))
        group = Group(question=question, draw=0, completions=tuple(completions))
        groups.append(ScoredGroup(group=group, scores=tuple(scores), verifier_version="t"))
    return groups


def packed(model: torch.nn.Module) -> Any:
    """A copy as the learner runs it: segment attention on packed rows, and the output layer that scores tokens."""
    register()
    copied: Any = copy.deepcopy(model)
    copied.set_attn_implementation(ATTENTION)
    install_scoring_head(copied, 4 * VOCABULARY * 5)
    return copied


@dataclass
class Policies:
    """Three states of one model, and the groups it is trained on."""

    before: torch.nn.Module
    now: torch.nn.Module
    reference: torch.nn.Module
    groups: list[ScoredGroup]

    def ours(self, grpo: GrpoConfig) -> tuple[float, dict[str, torch.Tensor]]:
        """Loss and gradients by our code."""
        sequences = sequences_of(self.groups, grpo.overlong, grpo.advantage)
        shards = plan_shards(
            sequences,
            ranks=1,
            max_tokens_per_micro_batch=30,
            aggregation=grpo.aggregation,
            completion_budget=BUDGET,
        )
        model, before, reference = packed(self.now), packed(self.before), packed(self.reference)
        total = 0.0
        assert len(shards[0].micro_batches) > 2
        for rows in shards[0].micro_batches:
            batch = collate(rows)
            with torch.no_grad():
                proximal, referred = score(before, batch, 1.0)[0], score(reference, batch, 1.0)[0]
            current, entropy = score(model, batch, 1.0)
            loss, _ = grpo_objective(rows, grpo, proximal, referred)(batch, current, entropy)
            loss.backward()
            total += loss.item()
        return total, gradients(model)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def norm64(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """RMSNorm."""
    mean_square = hidden_states.pow(2).mean(-1, keepdim=True)
    return torch.as_tensor(self.weight * hidden_states * torch.rsqrt(mean_square + self.variance_epsilon))


def rotary64(self: Any, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of the rotary positions."""
    angles = position_ids[..., None].to(x.dtype) * self.inv_freq.to(x.dtype)
    both = torch.cat((angles, angles), dim=-1)
    return both.cos(), both.sin()


@pytest.fixture(scope="module", autouse=True)
def wide_model() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Qwen2RMSNorm, "forward", norm64)
        patch.setattr(Qwen2RotaryEmbedding, "forward", rotary64)
        yield


@pytest.fixture(scope="module")
def policies() -> Policies:
    before = build_model(0).double()
    return Policies(before=before, now=moved(before, 1, 0.01), reference=moved(before, 2, 0.02), groups=ragged_groups())


@pytest.fixture(scope="module")
def trainer(policies: Policies, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One `GRPOTrainer`; a test sets what differs. ``use_vllm`` is set late, so that no vLLM is looked for."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    folder = tmp_path_factory.mktemp("trl")
    save_model(build_model(0), folder / "model")
    groups = policies.groups

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        rows = [completion for group in groups for completion in group.group.completions]
        return {
            "prompt_ids": [list(row.prompt_token_ids) for row in rows],
            "completion_ids": [list(row.token_ids) for row in rows],
            "logprobs": [list(row.logprobs) for row in rows],
        }

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [value for group in groups for value in group.rewards]

    arguments = GRPOConfig(
        output_dir=str(folder / "out"),
        use_cpu=True,
        bf16=False,  # its default, on the CPU too
        per_device_train_batch_size=GROUPS * K,
        num_generations=K,
        max_completion_length=BUDGET,
        beta=0.1,
        use_bias_correction_kl=False,
        delta=None,
        report_to=[],
        disable_tqdm=True,
    )
    made = GRPOTrainer(
        model=str(folder / "model"),  # a path, from which TRL loads the reference too
        reward_funcs=reward,
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": ["p"] * GROUPS}),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        rollout_func=rollout,
    )
    made.model.double(), made.ref_model.double()
    made.own_layer, made._get_per_token_logps_and_entropies = made._get_per_token_logps_and_entropies, plain_scores
    made.use_vllm, made._last_loaded_step, made.current_gradient_accumulation_steps = True, 0, 1
    yield made


def plain_scores(
    model: torch.nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int, **_: Any
) -> tuple[torch.Tensor, torch.Tensor, None]:
    """What TRL's method of that place returns, by a log-softmax over whole logits in the model's dtype."""
    logits = model(input_ids=input_ids, attention_mask=attention_mask).logits[:, -logits_to_keep - 1 : -1]
    logp = torch.log_softmax(logits, dim=-1)
    picked = logp.gather(2, input_ids[:, -logits_to_keep:, None])[..., 0]
    return picked, -(logp.exp() * logp).sum(-1), None


LOSS_TYPES = {
    "sequence_sum": "luspo",
    "token_mean": "dapo",
    "sequence_mean": "grpo",
    "constant_length": "dr_grpo",
}


def theirs(trainer: Any, policies: Policies, grpo: GrpoConfig, loss_type: str) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients by TRL's code, set as ``grpo`` says."""
    trainer.loss_type = loss_type
    trainer.importance_sampling_level = grpo.ratio
    trainer.epsilon_low, trainer.epsilon_high = grpo.clip_low, grpo.clip_high
    trainer.beta = grpo.kl.coefficient
    trainer.scale_rewards = "none" if grpo.advantage == "centred" else "group"
    trainer.vllm_importance_sampling_mode = grpo.importance_weights
    trainer.vllm_importance_sampling_clip_max = grpo.max_importance_weight
    trainer.vllm_importance_sampling_clip_min = grpo.min_importance_weight or None
    trainer.entropy_coef, trainer._entropy_bonus_enabled = grpo.entropy_coefficient, bool(grpo.entropy_coefficient)
    trainer.ref_model.load_state_dict(policies.reference.state_dict())
    model = trainer.model
    model.train()
    model.load_state_dict(policies.before.state_dict())
    batch = trainer._generate_and_score_completions([{"prompt": "p"}] * (GROUPS * K))
    model.load_state_dict(policies.now.state_dict())
    model.zero_grad()
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    return loss.item(), gradients(model)


def check(
    trainer: Any, policies: Policies, grpo: GrpoConfig, loss_type: str = "", tolerance: float = TOLERANCE
) -> None:
    expected_loss, expected = theirs(trainer, policies, grpo, loss_type or LOSS_TYPES[grpo.aggregation])
    loss, got = policies.ours(grpo)
    assert loss == pytest.approx(expected_loss, abs=tolerance, rel=tolerance)
    assert got.keys() == expected.keys() and len(got) > 10
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        assert scale > 1e-4, name
        torch.testing.assert_close(
            got[name], gradient, rtol=0, atol=tolerance * max(1.0, scale), msg=lambda text, name=name: f"{name}: {text}"
        )


def settings(**values: Any) -> GrpoConfig:
    return GrpoConfig.model_validate({"max_importance_weight": 3.0, **values})


@pytest.mark.parametrize("kl", [0.0, 0.3], ids=["no KL", "KL"])
@pytest.mark.parametrize("clip", [(0.2, 0.2), (0.05, 0.3)], ids=["clip", "asymmetric clip"])
@pytest.mark.parametrize("advantage", ["centred", "standardised"])
@pytest.mark.parametrize("aggregation", sorted(LOSS_TYPES))
def test_loss_and_gradient_are_those_of_trl(
    trainer: Any, policies: Policies, aggregation: str, advantage: str, clip: tuple[float, float], kl: float
) -> None:
    grpo = settings(
        aggregation=aggregation,
        advantage=advantage,
        clip_low=clip[0],
        clip_high=clip[1],
        kl={"coefficient": kl, "estimator": "k3"},
    )
    check(trainer, policies, grpo)


def test_bnpo_is_token_mean_on_one_micro_batch(trainer: Any, policies: Policies) -> None:
    check(trainer, policies, settings(aggregation="token_mean"), "bnpo")


@pytest.mark.parametrize("aggregation", sorted(LOSS_TYPES))
def test_gspo(trainer: Any, policies: Policies, aggregation: str) -> None:
    """The sequence-level ratio, with a clip that bites at its scale and a KL term on every token."""
    grpo = settings(aggregation=aggregation, ratio="sequence", clip_low=0.02, clip_high=0.03, kl={"coefficient": 0.1})
    check(trainer, policies, grpo)


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("token_truncate", 0.0, 2.0),
        ("token_mask", 0.5, 2.0),
        ("sequence_truncate", 0.0, 2.0),
        ("sequence_mask", 0.005, 8.0),  # the weight of a completion spreads with its length: here from 1e-5 to 11
    ],
)
def test_importance_weights(trainer: Any, policies: Policies, kind: str, low: float, high: float) -> None:
    check(trainer, policies, settings(importance_weights=kind, min_importance_weight=low, max_importance_weight=high))


def test_entropy_bonus(trainer: Any, policies: Policies) -> None:
    """TRL's bonus is a mean over tokens always, ours follows the aggregation: they are one for token_mean."""
    check(trainer, policies, settings(aggregation="token_mean", entropy_coefficient=0.05), "bnpo")


def test_with_the_output_layer_of_trl(trainer: Any, policies: Policies, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of TRL replaced; its output layer rounds to fp32."""
    monkeypatch.setattr(trainer, "_get_per_token_logps_and_entropies", trainer.own_layer)
    check(trainer, policies, settings(kl={"coefficient": 0.3}), tolerance=1e-5)
