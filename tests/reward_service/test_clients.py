"""The clients of docs/rewards.md for verl and OpenRLHF, run as they stand there and called as these trainers call.

The shapes are those of the trainers' own code: verl 0.9.1, `verl/experimental/reward_loop/reward_manager/naive.py`
(`NaiveRewardManager.run_single`) and `verl/trainer/ppo/reward.py`; OpenRLHF, `openrlhf/utils/agent.py`
(`SingleTurnAgentExecutor.execute`). TRL trains with its client in tests/integration/test_reward_trl.py.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from tests.aio import aio
from tests.data.examples import MARFAN
from tests.reward_service.serving import client_of_the_document, serving

TOKEN = "for-this-test"
QUESTION = json.dumps(
    {
        key: value
        for key, value in dataclasses.asdict(MARFAN).items()
        if key in ("stem", "options", "answer_label", "accepted_answers")
    }
)
NOBODYS = json.dumps({"stem": "What?", "verifier": "nobody", "accepted_answers": ["x"]})


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(token=TOKEN, max_pending_requests=2) as address:
        yield address


def said(answer: str) -> str:
    return f"<think>Long fingers.</think><answer>{answer}</answer>"


@aio
async def verl_scores(compute_score: Any) -> None:
    """Two calls at once are all that this service takes: the others are told 429, and come again."""
    wrapped = partial(lambda raw, more, *args, **kwargs: raw(*args, **{**kwargs, **more}), compute_score, {})

    async def run_single(response: str, truth: str) -> dict[str, Any]:
        extra_info = {"index": 0, "split": "train", "num_turns": None, "rollout_reward_scores": {}}
        result = await asyncio.get_running_loop().run_in_executor(
            None,
            lambda: wrapped(data_source="hpo", solution_str=response, ground_truth=truth, extra_info=extra_info),
        )
        return {"reward_score": result["score"], "reward_extra_info": dict(result.items())}

    answers = ["B", "A", "A or B", "Arachnodactyly"] * 3
    results = await asyncio.gather(*(run_single(said(answer), QUESTION) for answer in answers))
    assert [r["reward_score"] for r in results] == [1.1, 0.1, 0.0, 1.1] * 3
    assert [r["reward_extra_info"]["acc"] for r in results] == [1.0, 0.0, 0.0, 1.0] * 3
    assert len({tuple(r["reward_extra_info"]) for r in results}) == 1  # verl stacks them: the same keys everywhere
    with pytest.raises(RuntimeError, match="no verdict"):
        await run_single(said("x"), NOBODYS)


def test_verl(checkout: Path, url: str) -> None:
    verl_scores(client_of_the_document(checkout, "verl", url, TOKEN)["compute_score"])
    page = httpx.get(f"{url}/metrics", headers={"authorization": f"Bearer {TOKEN}"}).text
    assert 'status="429"' in page


@aio
async def openrlhf_rewards(reward_func: Any) -> None:
    prompt = f"<|im_start|>user\n{MARFAN.stem}<|im_end|>\n<|im_start|>assistant\n"

    async def execute(response: str, label: str = QUESTION) -> dict[str, Any]:
        # decode(prompt_ids + action_ids, skip_special_tokens=False)
        found: dict[str, Any] = await asyncio.to_thread(reward_func, [prompt + response], [prompt], [label])
        return {"reward": found.get("rewards"), "scores": found.get("scores"), "logs": found.get("extra_logs") or {}}

    ends = [said("B") + "<|im_end|>", said("B"), said("A") + "<|im_end|>", said("B<|im_end|>") + "<|im_end|>"]
    results = await asyncio.gather(*(execute(end) for end in ends))
    assert [r["reward"].tolist() for r in results] == [pytest.approx([x]) for x in (1.1, 0.0, 0.1, 0.0)]
    assert [r["scores"].tolist() for r in results] == [[1.0], [0.0], [0.0], [0.0]]
    assert torch.equal(results[2]["logs"]["format"], torch.tensor([1.0]))
    with pytest.raises(RuntimeError, match="no verdict"):
        await execute(said("x") + "<|im_end|>", NOBODYS)
    with pytest.raises(ValueError, match="cut"):
        reward_func([prompt[5:] + ends[0]], [prompt], [QUESTION])


def test_openrlhf(checkout: Path, url: str) -> None:
    openrlhf_rewards(client_of_the_document(checkout, "OpenRLHF", url, TOKEN)["reward_func"])


def test_trl(checkout: Path, url: str) -> None:
    reward = client_of_the_document(checkout, "TRL", url, TOKEN)["fleming_reward"]
    completions: list[Any] = [said("B"), [{"role": "assistant", "content": said("A")}], said("x")]
    questions = [json.loads(text) for text in (QUESTION, QUESTION, NOBODYS)]
    # GRPOTrainer hands over keywords: the columns of the data set, and ids and state that nobody asked for.
    paid = reward(prompts=["?"] * 3, completions=completions, question=questions, completion_ids=[[1]] * 3)
    assert paid == [1.1, 0.1, None]
