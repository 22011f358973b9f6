"""A million generated completions, guided by the coverage of the scorer: no crash, and every property holds.

FLEMING_FUZZ_RUNS sets another number of completions.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.soak, pytest.mark.timeout(6 * 3600)]

RUNS = int(os.environ.get("FLEMING_FUZZ_RUNS", "1000000"))


def test_a_million_completions(checkout: Path, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris has no build for this Python")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    command = [sys.executable, "-m", "tests.reward_service.fuzz_target", f"-runs={RUNS}", "-max_len=256", "-seed=7"]
    done = subprocess.run(
        [*command, f"-artifact_prefix={tmp_path}/", str(corpus)],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    finished = re.search(r"Done (\d+) runs", done.stderr)
    assert finished is not None and int(finished[1]) >= RUNS, done.stderr[-2000:]
    # It was guided: inputs that reached new code were kept, far more than one.
    assert len(list(corpus.iterdir())) > 50
