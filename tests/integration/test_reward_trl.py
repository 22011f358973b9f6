"""TRL trains with the reward service, through the client that docs/rewards.md shows, over real HTTP."""

from __future__ import annotations

import dataclasses
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from reward_service.config import RewardConfig, ServiceConfig
from reward_service.http_app import create_app
from tests.data.examples import MARFAN

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
    """The application of one replica under uvicorn; Serve around it has its own test (test_reward_http.py)."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        app = create_app(ServiceConfig(), RewardConfig(), token=TOKEN)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def client_of_the_document(checkout: Path, url: str) -> Callable[..., Any]:
    """The TRL client as it stands in docs/rewards.md, with this test's address and token."""
    page = (checkout / "docs" / "rewards.md").read_text(encoding="utf-8")
    match = re.search(r"### TRL\n.*?```python\n(.*?)```", page, re.DOTALL)
    assert match is not None
    code = match[1].replace("http://127.0.0.1:8700", url)
    code = code.replace("timeout=60.0", f'timeout=60.0, headers={{"authorization": "Bearer {TOKEN}"}}')
    namespace: dict[str, Any] = {}
    exec(compile(code, "docs/rewards.md", "exec"), namespace)
    found: Callable[..., Any] = namespace["fleming_reward"]
    return found


def test_trl_trains_with_the_client_of_the_document(checkout: Path, url: str, tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from learner.config import TinyPolicyConfig
    from learner.tiny_policy import build_tiny_policy

    reward = client_of_the_document(checkout, url)
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
