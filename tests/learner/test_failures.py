"""What a user reads when the learner cannot start or goes down."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.errors import ConfigError, SetupError
from learner.process import check_model_dir
from learner.trainer import _root_cause


class WorkerFailures(Exception):
    """Shaped like Ray Train's WorkerGroupError."""

    def __init__(self, failures: dict[int, BaseException]) -> None:
        super().__init__("Training failed due to worker errors:\nTraceback ...")
        self.worker_failures = failures


def test_our_own_error_is_the_cause_and_the_broken_connection_is_not() -> None:
    ours = ConfigError("learner.ranks is 3", remedy="set it to 2")
    error = WorkerFailures({0: RuntimeError("Connection closed by peer\nmore"), 1: ours})
    assert _root_cause(error) == "rank 1: learner.ranks is 3. Remedy: set it to 2"


def test_other_causes_are_one_line() -> None:
    assert _root_cause(WorkerFailures({1: RuntimeError("first\nsecond")})) == "rank 1: RuntimeError: first"
    assert _root_cause(ValueError("controller\nmore")) == "ValueError: controller"
    assert _root_cause(ValueError()) == "ValueError"


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"config\.json is missing"):
        check_model_dir(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(SetupError, match="safetensors is missing"):
        check_model_dir(str(tmp_path))
    (tmp_path / "model.safetensors").touch()
    check_model_dir(str(tmp_path))
