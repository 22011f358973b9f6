"""An option that would be ignored is refused, in one line, before anything is read or started."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli import app

RECIPE = str(Path(__file__).parents[2] / "recipes" / "quickstart.yaml")
NOWHERE = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", RECIPE, "--gpu-memory-gib", "80"], "--gpu-memory-gib has no meaning without --dry-run"),
        (["run", RECIPE, "--tokens-per-second", "9"], "--tokens-per-second has no meaning without --dry-run"),
        (["run", RECIPE, "--learner-tokens-per-second", "9"], "--learner-tokens-per-second has no meaning without"),
        (["run", RECIPE, "--dry-run", "--resume"], "--resume has no meaning with --dry-run. Remedy: leave it out"),
        (["run", RECIPE, "--dry-run", "--verbose"], "--verbose has no meaning with --dry-run"),
        (["submit", RECIPE, "--image", "i"], "without --kuberay. Remedy: leave it out, or add --kuberay"),
        (
            ["submit", RECIPE, "--claim", "c", "--secret", "s", "--namespace", "n", "--ranks-per-pod", "8"],
            "--namespace, --claim, --secret, --ranks-per-pod have no meaning without --kuberay",
        ),
        (["submit", RECIPE, "--kuberay", "--image", "i", "--address", NOWHERE], "--address has no meaning with"),
        (["submit", RECIPE, "--kuberay", "--image", "i", "--no-wait"], "--no-wait has no meaning with --kuberay"),
        (["submit", RECIPE, "--kuberay", "--image", "i", "--job-id", "j"], "--job-id has no meaning with --kuberay"),
        (["resume", "/nowhere/mine", "--env", "A=B"], "--env has no meaning without --address"),
        (["resume", "/nowhere/mine", "--no-wait"], "--no-wait has no meaning without --address"),
        (["resume", "/nowhere/mine", "--job-id", "j"], "or add --address"),
        (["watch", "/nowhere/mine", "--once", "--every", "3"], "--every has no meaning where the view is printed once"),
        (["watch", "/nowhere/mine", "--run", "mine"], "--run has no meaning for a run's own folder"),
        (["serve", "rewards", "--replicas", "3", "--max-replicas", "2"], "--max-replicas 2 is below --replicas 3"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(words: list[str], said: str) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ") and said in line and "Remedy: " in line


def test_what_the_environment_says_bothers_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", NOWHERE)
    settings = ["--set", "run.storage=s3://bucket/runs"]
    result = CliRunner().invoke(app, ["submit", RECIPE, "--kuberay", "--image", "i", *settings])
    assert result.exit_code == 0, result.output
