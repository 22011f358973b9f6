"""TRL trains with the reward service, through the client that docs/rewards.md shows, over real HTTP."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.data.examples import MARFAN
from tests.reward_service.serving import client_of_the_document, serving

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

TOKEN = "for-this-test"
RIGHT = "<think>Long fingers.</think><answer>B</answer>"
QUESTION = {
    key: value
    for key, value in dataclasses.asdict(MARFAN).items()
    if key in ("stem", "options", "answer_label", "accepted_answers")
}


@pytest.fixture
def url() -> Iterator[str]:
    with serving(token=TOKEN) as address:
        yield address


def test_trl_trains_with_the_client_of_the_document(checkout: Path, url: str, tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from learner.config import TinyPolicyConfig
    from learner.tiny_policy import build_tiny_policy

    reward = client_of_the_document(checkout, "TRL", url, TOKEN)["fleming_reward"]
    paid: list[float | None] = []

    def recorded(**inputs: Any) -> Any:
        # An untrained model never keeps the format: one right answer among the others shows that rewards arrive.
        inputs["completions"] = [RIGHT, *inputs["completions"][1:]]
        paid.extend(reward(**inputs))
        return paid[-len(inputs["completions"]) :]

    build_tiny_policy(
        TinyPolicyConfig(vocab_size=512, hidden_size=32, layers=1, max_positions=64), [MARFAN.stem], tmp_path
    )
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tmp_path),
        processing_class=AutoTokenizer.from_pretrained(tmp_path),
        reward_funcs=recorded,
        train_dataset=Dataset.from_list([{"prompt": MARFAN.stem, "question": QUESTION}] * 4),
        args=GRPOConfig(
            output_dir=str(tmp_path / "trl"),
            max_steps=1,
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=8,
            scale_rewards="none",
            report_to=[],
            use_cpu=True,
            logging_steps=1,
        ),
    )
    trainer.train()
    assert len(paid) == 4 and paid[0] == 1.1 and paid[1:] == [0.0, 0.0, 0.0]
    logged = next(entry for entry in trainer.state.log_history if "reward" in entry)
    assert logged["reward"] == pytest.approx(1.1 / 4)
