"""Cores that engines of one host claim for themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from actors.cores import CoreClaim
from data.errors import EngineError


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 8, 9, 10, 11})


def test_engines_of_one_host_get_different_cores(eight_cores: None, tmp_path: Path) -> None:
    first, second = CoreClaim(3, tmp_path), CoreClaim(3, tmp_path)
    assert (first.cores, second.cores) == ((0, 1, 2), (3, 8, 9))
    with pytest.raises(EngineError, match=r"takes 3 cores for itself, but 2 of this host's 8 are free.*bind_cores"):
        CoreClaim(3, tmp_path)
    assert CoreClaim(2, tmp_path).cores == (10, 11)  # the claim that failed holds none
    first.release()
    assert first.cores == () and CoreClaim(3, tmp_path).cores == (0, 1, 2)


HOLDER = """
import sys, time
from pathlib import Path
from actors.cores import CoreClaim
claim = CoreClaim(1, Path(sys.argv[1]))
print(claim.cores[0], flush=True)
time.sleep(60)
"""


def test_a_claim_ends_with_its_process(tmp_path: Path, checkout: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, env=environment
    ) as holder:
        assert holder.stdout is not None
        taken = int(holder.stdout.readline())
        everything = len(os.sched_getaffinity(0))
        with pytest.raises(EngineError, match=f"{everything - 1} of this host's {everything} are free"):
            CoreClaim(everything, tmp_path)
        holder.kill()
    assert taken in CoreClaim(everything, tmp_path).cores
