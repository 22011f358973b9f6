"""Commits, lineage and rollback on disk; the lease; what a crash between two writes leaves."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.lease import Lease
from cluster.run_store import RunStore, fates
from data.errors import RunStateError, SetupError
from data.storage import Storage
from data.tables import RolloutRow, rollout_table
from tests.cluster.fakes import completion, question


def table(step: int) -> pa.Table:
    row = RolloutRow(
        step=step,
        attempt=1,
        completion=completion(question(step), 0, 0, step),
        score=None,
        fate="trained",
        verifier_version="v",
        prompt_version="p",
    )
    return rollout_table([row])


def new_store(folder: Path) -> RunStore:
    store = RunStore(Storage.open(str(folder)))
    store.begin_attempt({})
    return store


def run_steps(store: RunStore, first: int, last: int) -> None:
    for step in range(first, last + 1):
        store.write_step(step, {"x": float(step)}, table(step))


def commit(store: RunStore, step: int) -> None:
    store.commit(step=step, learner_checkpoint=f"c{step}", controller_state={"step": step})


def test_uncommitted_steps_are_rolled_back_and_committed_ones_stand(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    run_steps(store, 1, 4)
    commit(store, 4)
    run_steps(store, 5, 6)  # then the machine dies

    second = new_store(tmp_path)
    assert second.attempt == 2
    last = second.last_commit()
    assert last is not None and last.step == 4 and second.controller_state(last) == {"step": 4}
    assert second.roll_back_uncommitted() == ["step-000005.attempt-01", "step-000006.attempt-01"]
    run_steps(second, 5, 8)
    commit(second, 8)

    assert [(row["step"], row["attempt"]) for row in second.committed_metrics()] == [
        *((step, 1) for step in range(1, 5)),
        *((step, 2) for step in range(5, 9)),
    ]
    assert second.trajectories()["step"].to_pylist() == list(range(1, 9))
    rolled_back = sorted((tmp_path / "trajectories" / "rolled_back").iterdir())
    assert [fates(pq.read_table(path)) for path in rolled_back] == [{"rolled_back": 1}] * 2
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 9))


def test_a_commit_that_never_got_its_record_did_not_happen(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    run_steps(store, 1, 4)
    commit(store, 2)
    commit(store, 4)
    (tmp_path / "commits" / "step-000004" / "COMMIT.json").unlink()
    again = new_store(tmp_path)
    last = again.last_commit()
    assert last is not None and last.step == 2
    assert again.roll_back_uncommitted() == ["step-000003.attempt-01", "step-000004.attempt-01"]


def test_a_changed_controller_state_is_refused(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    run_steps(store, 1, 1)
    commit(store, 1)
    (tmp_path / "commits" / "step-000001" / "controller.json").write_text('{"step": 7}\n')
    last = store.last_commit()
    assert last is not None
    with pytest.raises(RunStateError, match="is not what was committed"):
        store.controller_state(last)


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=5))
def test_every_step_up_to_the_commit_stands_exactly_once(attempts: list[tuple[int, int]]) -> None:
    """Attempts commit some steps and lose some more; the surviving lineage is 1, 2, ... without gap or repetition."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        done = 0
        for committed, lost in attempts:
            store = new_store(Path(folder))
            store.roll_back_uncommitted()
            run_steps(store, done + 1, done + committed)
            commit(store, done + committed)
            done += committed
            run_steps(store, done + 1, done + lost)
        final = new_store(Path(folder))
        assert [row["step"] for row in final.committed_metrics()] == list(range(1, done + 1))
        assert final.trajectories()["step"].to_pylist() == list(range(1, done + 1))


def test_the_lease_keeps_a_second_writer_out(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    first = Lease(storage)
    first.acquire()
    with pytest.raises(RunStateError, match=f"written by process {os.getpid()}"):
        Lease(storage).acquire()
    first.check()
    first.release()
    Lease(storage).acquire()


def test_the_lease_of_a_dead_process_is_taken_over_at_once(tmp_path: Path) -> None:
    code = (
        "import os, sys; from cluster.lease import Lease; from data.storage import Storage;"
        "Lease(Storage.open(sys.argv[1])).acquire(); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, cwd=Path(__file__).parents[2])
    assert (tmp_path / "lease.json").exists()
    Lease(Storage.open(str(tmp_path))).acquire()


def test_a_lost_lease_is_noticed_before_a_commit(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    first, thief = Lease(storage), Lease(storage)
    first.acquire()
    holder = json.loads(storage.read("lease.json"))
    storage.write("lease.json", json.dumps({**holder, "host": "elsewhere", "heartbeat": 0.0}).encode())
    thief.acquire()
    with pytest.raises(RunStateError, match=f"was taken by process {os.getpid()} on {socket.gethostname()}"):
        first.check()
    first.release()  # does nothing: it is not ours
    thief.check()


def test_a_full_disk_is_an_error_with_a_remedy_and_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_store(tmp_path)
    run_steps(store, 1, 1)
    commit(store, 1)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SetupError, match="no space left"):
        store.write_step(2, {}, table(2))
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_place_that_cannot_be_written_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cannot write"):
        Storage.open(str(tmp_path / "file")).write("key", b"x")
