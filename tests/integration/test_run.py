"""Real runs: what is seen of one, does reward teach, does one seed give one run, and what does a killed driver leave?

Real Ray, real vLLM, two real ZeRO-3 ranks. The runs share their warm-up, which is the slow part.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.monitoring.alerts import ALERTS
from cluster.monitoring.catalogue import METRICS, metric_of, unknown
from cluster.run_store import RunStore, fates
from evaluation.accuracy import Accuracy
from tests.integration import runs
from tests.integration.observing import ABSENT, LASTING, Observation, observe

STEPS, COMMIT_EVERY = 18, 3
REPEATED_STEPS = 6


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def running(storage: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run of the short recipe that goes on; the tests that look at a live run come first in this file."""
    process = runs.start(runs.command(storage, "quickstart", "run.dashboard=true"), storage / "quickstart.log")
    yield process
    process.kill()


@pytest.fixture(scope="module")
def observed(storage: Path, running: subprocess.Popen[bytes]) -> Observation:
    """What a person sees of the run while it goes on."""
    return observe(storage / "quickstart", lambda: running.poll() is None, storage / "prometheus")


@pytest.fixture(scope="module")
def learned(storage: Path, running: subprocess.Popen[bytes]) -> RunStore:
    """The run at its end."""
    code = running.wait(540)
    text = (storage / "quickstart.log").read_text()
    assert code == 0, f"exit code {code}\n{text[-4000:]}"
    assert "before RL" in text and "learning_curve.png" in text
    return runs.store(storage, "quickstart")


@pytest.mark.timeout(600)
def test_the_dashboard_reads_like_the_design(observed: Observation) -> None:
    states = {actor["name"]: actor["state"] for actor in observed.actors if actor["name"]}
    for part in ("rollout-0", "reward-0", "learner-1", "mailbox-1"):
        assert states[f"quickstart/{part}"] == "ALIVE", states
    assert {actor["ray_namespace"] for actor in observed.actors if actor["name"] in states} >= {"fleming-quickstart"}
    assert [job["metadata"]["job_name"] for job in observed.jobs if job["type"] == "DRIVER"] == ["quickstart"]
    assert {rank["world_rank"] for rank in observed.ranks} == {0, 1}


@pytest.mark.timeout(600)
def test_prometheus_gets_every_metric_and_every_panel_has_data(observed: Observation) -> None:
    assert observed.exported >= LASTING
    assert observed.exported <= {metric.exported for metric in METRICS.values()}
    silent = [query for panel in observed.panels.values() for query, rows in panel.items() if rows == 0]
    wanting = [query for query in silent if not any(f"{name}{{" in query for name in ABSENT)]
    assert wanting == []
    assert [title for title, panel in observed.panels.items() if not any(panel.values())] == []
    runs.say(f"Prometheus: {len(observed.exported)} metrics, {len(observed.panels)} panels")


@pytest.mark.timeout(600)
def test_prometheus_plays_the_alerts_and_none_of_a_sound_run_is_on(observed: Observation) -> None:
    assert {rule["name"] for rule in observed.rules} == {alert.name for alert in ALERTS}
    assert {rule["health"] for rule in observed.rules} == {"ok"}
    assert [rule["name"] for rule in observed.rules if rule["state"] == "firing"] == []


@pytest.mark.timeout(600)
def test_a_run_is_watched_by_its_directory_and_by_its_address(observed: Observation) -> None:
    for view in observed.watched.values():
        for said in ("quickstart", "accuracy of sampled answers", "rollout-0", "tokens/s", "trained", "evaluation"):
            assert said in view, f"{said!r} is not in\n{view}"
        assert "live, " in view
    assert "reward-0 alive" in list(observed.watched.values())[1]


def check_learned(store: RunStore) -> None:
    """Before RL at chance, after it far above: the judgement that a sabotaged run must fail."""
    commit = store.last_commit()
    assert commit is not None
    evaluations = store.controller_state(commit)["evaluations"]
    before, after = evaluations["before"], evaluations["after"]
    for kind in ("greedy", "sampled"):
        assert before[f"eval/train_{kind}_low"] <= 0.25 <= before[f"eval/train_{kind}_high"], before
    assert after["eval/train_sampled_low"] > 0.45, after
    assert after["eval/train_greedy"] > 0.5, after
    assert after["eval/train_format"] > 0.9, after
    # Nothing was told about other diseases: what was learnt are these answers.
    assert after["eval/held_out_greedy_low"] <= 0.30, after


@pytest.mark.timeout(600)
def test_reward_teaches_the_answers(learned: RunStore) -> None:
    check_learned(learned)


@pytest.mark.timeout(600)
def test_the_run_directory_holds_every_step_and_every_completion(learned: RunStore) -> None:
    rows = learned.committed_metrics()
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    keys = set().union(*rows) - {"step", "attempt"}
    assert unknown(keys) == []
    lasting = {name for name, metric in METRICS.items() if metric.when != "live" and not metric.needs}
    assert lasting <= {metric_of(key)[0] for key in keys}
    assert max(row["learner/logprob_gap_mean"] for row in rows) < 1e-3
    assert {row["rollout/staleness_max"] for row in rows} == {0}
    table = learned.trajectories()
    assert sum(fates(table).values()) == table.num_rows == sum(row["rollout/groups"] * 8 for row in rows)
    assert fates(table)["trained"] == sum(row["rollout/groups_with_signal"] * 8 for row in rows)
    versions = {(step, span["version"]) for step, spans in _columns(table, "step", "version_spans") for span in spans}
    assert versions == {(step, step - 1) for step in range(1, STEPS + 1)}
    root = Path(learned.storage.root)
    for picture in ("learning_curve.png", "costs.png"):
        assert (root / picture).read_bytes().startswith(b"\x89PNG")
    assert (root / "models" / "final" / "config.json").is_file()
    assert list(root.glob("tensorboard/*/events.*"))
    accuracy = Accuracy(correct=int(sum(table["correct"].to_pylist()[:512])), total=512)
    assert accuracy.rate < 0.5, "the first step's samples come from the policy before RL"


@pytest.mark.timeout(600)
def test_a_killed_driver_leaves_no_process_and_resumes_at_its_commit(storage: Path, learned: RunStore) -> None:
    overrides = (
        f"model.path={learned.storage.path('models/warm_up')}",
        "model.tiny=null",
        "warm_up.steps=0",
        f"loop.steps={REPEATED_STEPS}",
        "loop.evaluation.every=0",
        "loop.evaluation.samples=1",
    )
    store, log = runs.store(storage, "killed"), storage / "killed.log"
    driver = runs.start(runs.command(storage, "killed", *overrides), log)
    uncommitted = f"segments/step-{COMMIT_EVERY + 1:06d}.attempt-01.json"
    runs.wait_until(lambda: store.storage.exists(uncommitted) or driver.poll() is not None, 240, "step 4")
    members = runs.family(driver)
    assert len(members) > 5, members
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    seconds = runs.wait_until(lambda: not runs.alive(members), 30, "the end of every process of the run")
    runs.say(f"all {len(members)} processes of the killed run were gone after {seconds:.1f} s")
    commit = store.last_commit()
    assert commit is not None and commit.step == COMMIT_EVERY

    runs.finish(runs.command(storage, "killed", *overrides, resume=True), log, timeout_s=300)
    lineage = [(row["step"], row["attempt"]) for row in store.committed_metrics()]
    assert lineage == [(step, 1 if step <= COMMIT_EVERY else 2) for step in range(1, REPEATED_STEPS + 1)]
    rolled_back = [event for event in runs.events(storage, "killed") if event["event"] == "rolled_back"]
    assert f"step-{COMMIT_EVERY + 1:06d}.attempt-01" in rolled_back[0]["segments"]
    same = _check_same_run(learned, store)
    runs.say(f"{same:.2%} of the completions have the same token ids in both runs")


def _check_same_run(first: RunStore, second: RunStore) -> float:
    """One seed, one run: also across a kill and a resume.

    Engines do not promise the same bits for another make-up of batches, so a token may flip where two are nearly tied;
    up to there the log-probabilities agree.
    """
    ones = {key: values for key, *values in _samples(first)}
    pairs = [(ones.get(key), values) for key, *values in _samples(second)]
    same = sum(one is not None and one[0] == other[0] for one, other in pairs)
    assert len(pairs) >= REPEATED_STEPS * 64 * 8 * 0.9
    assert same >= 0.99 * len(pairs)
    for one, other in pairs:
        if one is not None and one[0] != other[0]:
            until = next((i for i, (a, b) in enumerate(zip(one[0], other[0], strict=False)) if a != b), 0)
            gaps = [abs(a - b) for a, b in zip(one[1][:until], other[1][:until], strict=True)]
            assert max(gaps, default=0.0) < 1e-3, (one, other)
    return float(same / len(pairs))


def _samples(store: RunStore) -> list[tuple[Any, ...]]:
    """((step, question, draw, sample), token ids, log-probabilities) of the first steps."""
    table = store.trajectories()
    rows = _columns(table, "step", "question_id", "draw", "sample_index", "token_ids", "logprobs")
    return [((step, *key), ids, logprobs) for step, *key, ids, logprobs in rows if step <= REPEATED_STEPS]


def _columns(table: Any, *names: str) -> list[tuple[Any, ...]]:
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))
