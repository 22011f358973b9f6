"""The test of learning can fail: with the learning signal broken, the same run must not pass it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration import runs
from tests.integration.test_run import check_learned

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]


@pytest.mark.parametrize("sabotage", ["shuffle", "zero"])
def test_without_a_true_advantage_nothing_is_learned(tmp_path: Path, sabotage: str) -> None:
    log = tmp_path / "log"
    code = runs.start(runs.command(tmp_path, sabotage, sabotage=sabotage), log).wait(1000)
    store = runs.store(tmp_path, sabotage)
    rows = store.committed_metrics()
    runs.say(f"{sabotage}: accuracy of the rollouts {[round(row['rollout/accuracy'], 2) for row in rows]}")
    assert max(row["rollout/accuracy"] for row in rows) < 0.35
    if code == 0:
        with pytest.raises(AssertionError):
            check_learned(store)
    else:  # noise as advantage takes the policy apart until no group has a signal, and the run says so
        assert "no group carried a learning signal" in log.read_text()
