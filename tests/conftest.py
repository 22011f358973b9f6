"""What every test shares: a quiet, offline environment, and the slow tests last."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

# Set before anything imports an engine. Nothing may reach for a model hub or report usage, and the OpenMP threads of
# several processes must not fight over two cores. Child processes inherit all of it.
for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}.items():
    os.environ.setdefault(_name, _value)

# These machines are noisy: a slow example is no failure, and the same examples are tried on every run.
hypothesis.settings.register_profile("fleming", deadline=None, derandomize=True, print_blob=False)
hypothesis.settings.load_profile("fleming")

CHECKOUT = Path(__file__).resolve().parents[1]
_INTEGRATION = CHECKOUT / "tests" / "integration"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever lies in tests/integration is marked so, and runs after the unit tests: a plain mistake shows first."""
    for item in items:
        if item.path.is_relative_to(_INTEGRATION):
            item.add_marker(pytest.mark.integration)
    items.sort(key=lambda item: item.path.is_relative_to(_INTEGRATION))


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The folder that holds the rooms."""
    return CHECKOUT
