"""Truth on disk: what a run has done, what of it is committed, and who may write.

Layout under ``<run.storage>/<run.name>``
    run.yaml                              the resolved recipe, versions and seeds of the first attempt
    lease.json                            who is writing (host, process, heartbeat)
    attempts/attempt-01.json              one per start of the controller or restart of the learner: recipe, versions
    stages/<name>.json                    a finished stage and its figures
    commits/step-000020/controller.json   the controller's state after step 20
    commits/step-000020/COMMIT.json       written last; the only thing that resume reads
    segments/step-000001.attempt-01.json  the metrics of one step; never appended to
    segments/event-00001.attempt-01.json  one event
    trajectories/step-000001.attempt-01.parquet
    trajectories/rolled_back/, idle/      completions of steps run again, and of draws after the last step
    models/, train/                       model directories (initial, warm_up, final) and the learner's checkpoints
    metrics.jsonl, events.jsonl           views joined from the segments
    live.json                             what is under way, written over every few seconds; resume does not read it

A step belongs to the surviving lineage when some commit covers it: a commit's ``lineage`` lists which attempt ran which
steps. Steps that an attempt ran after its last commit are run again and their first attempt is marked rolled back.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.errors import RunStateError
from data.storage import Storage
from data.tables import mark_rolled_back


@dataclass(frozen=True, kw_only=True)
class LineageSpan:
    """Steps ``first`` to ``last``, both included, as run by ``attempt``."""

    attempt: int
    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One commit record: everything needed to go on after ``step`` and nothing else.

    Example: ``Commit(step=20, attempt=1, learner_checkpoint="train/attempt-01/step-000020", controller_sha256="9f..",
    lineage=(LineageSpan(attempt=1, first=1, last=20),), written_at="2026-11-24T11:00:00+00:00")``.
    """

    step: int
    attempt: int
    learner_checkpoint: str
    controller_sha256: str
    lineage: tuple[LineageSpan, ...]
    written_at: str

    @property
    def segments(self) -> tuple[str, ...]:
        """The step segments of the surviving lineage, in order."""
        return tuple(
            step_name(step, span.attempt) for span in self.lineage for step in range(span.first, span.last + 1)
        )


def step_name(step: int, attempt: int) -> str:
    return f"step-{step:06d}.attempt-{attempt:02d}"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def to_json(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=True) + "\n").encode()


class RunStore:
    """The run directory. All writes go through it; every file is written whole."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.attempt = 0
        self._events = 0
        self._rows: dict[
            str, dict[str, Any]
        ] = {}  # segments read or written so far, so that a view costs no re-reading

    # --- attempts and stages --------------------------------------------------------------------------------------

    def begin_attempt(self, about: dict[str, Any]) -> int:
        """Open the next attempt; its number names every segment written from here on."""
        self.attempt = len(self.storage.list("attempts")) + 1
        self._events = 0
        self.storage.write(f"attempts/attempt-{self.attempt:02d}.json", to_json({**about, "started_at": now()}))
        return self.attempt

    def recipe_of(self, attempt: int) -> dict[str, Any] | None:
        """The recipe that an attempt ran, which may differ from the first one's; None when it was not written."""
        about: dict[str, Any] = json.loads(self.storage.read(f"attempts/attempt-{attempt:02d}.json"))
        return about.get("recipe")

    def has_work(self) -> bool:
        """True when something has happened that is worth keeping: a finished stage, or completions sampled."""
        return bool(self.storage.list("stages") or self.storage.list("trajectories"))

    def stage_figures(self, stage: str) -> dict[str, float] | None:
        """Figures of a finished stage, or None when it has not finished."""
        key = f"stages/{stage}.json"
        return json.loads(self.storage.read(key)) if self.storage.exists(key) else None

    def finish_stage(self, stage: str, figures: dict[str, float]) -> None:
        self.storage.write(f"stages/{stage}.json", to_json(figures))

    # --- segments -------------------------------------------------------------------------------------------------

    def write_step(self, step: int, metrics: dict[str, float], trajectories: pa.Table) -> None:
        """Write the segments of one step. They count once a commit covers them."""
        name = step_name(step, self.attempt)
        self.storage.write(f"trajectories/{name}.parquet", parquet_bytes(trajectories))
        self._rows[name] = {"step": step, "attempt": self.attempt, **metrics}
        self.storage.write(f"segments/{name}.json", to_json(self._rows[name]))

    def write_idle(self, step: int, trajectories: pa.Table) -> None:
        """Keep completions sampled after ``step``, the last one, that led to no further step."""
        self.storage.write(f"trajectories/idle/{step_name(step, self.attempt)}.parquet", parquet_bytes(trajectories))

    def write_event(self, kind: str, **fields: object) -> dict[str, object]:
        self._events += 1
        name = f"event-{self._events:05d}.attempt-{self.attempt:02d}"
        self._rows[name] = {"time": now(), "attempt": self.attempt, "event": kind, **fields}
        self.storage.write(f"segments/{name}.json", to_json(self._rows[name]))
        return self._rows[name]

    def write_live(self, live: dict[str, Any]) -> None:
        """Say what is under way right now, in place of what was said before."""
        self.storage.write("live.json", to_json({"time": now(), **live}))

    # --- commits --------------------------------------------------------------------------------------------------

    def commit(self, *, step: int, learner_checkpoint: str, controller_state: dict[str, Any]) -> Commit:
        """Make everything up to ``step`` permanent. COMMIT.json is written last: before it, nothing has happened."""
        previous = self.last_commit()
        first = previous.step + 1 if previous else 1
        lineage = previous.lineage if previous else ()
        if step >= first:
            lineage = _extend(lineage, LineageSpan(attempt=self.attempt, first=first, last=step))
        state = to_json(controller_state)
        commit = Commit(
            step=step,
            attempt=self.attempt,
            learner_checkpoint=learner_checkpoint,
            controller_sha256=hashlib.sha256(state).hexdigest(),
            lineage=lineage,
            written_at=now(),
        )
        folder = f"commits/step-{step:06d}"
        self.storage.write(f"{folder}/controller.json", state)
        self.storage.write(f"{folder}/COMMIT.json", to_json({**asdict(commit), "segments": commit.segments}))
        self.write_views(commit)
        return commit

    def last_commit(self) -> Commit | None:
        """The newest commit record, or None. A folder without COMMIT.json is a commit that never happened."""
        for folder in reversed(self.storage.list("commits")):
            key = f"commits/{folder}/COMMIT.json"
            if self.storage.exists(key):
                record = json.loads(self.storage.read(key))
                record.pop("segments")
                spans = tuple(LineageSpan(**span) for span in record.pop("lineage"))
                return Commit(lineage=spans, **record)
        return None

    def controller_state(self, commit: Commit) -> dict[str, Any]:
        """The controller's state of a commit.

        Raises:
            RunStateError: the file is missing or is not the one that was committed.
        """
        key = f"commits/step-{commit.step:06d}/controller.json"
        content = self.storage.read(key) if self.storage.exists(key) else b""
        if hashlib.sha256(content).hexdigest() != commit.controller_sha256:
            raise RunStateError(
                f"{self.storage.uri}/{key} is not what was committed",
                remedy=f"restore the file, or remove commits/step-{commit.step:06d} to resume from the commit before",
            )
        state: dict[str, Any] = json.loads(content)
        return state

    def roll_back_uncommitted(self) -> list[str]:
        """Mark every step segment that no commit covers as rolled back; returns their names.

        Their trajectories keep every completion, with fate ``rolled_back``, under ``trajectories/rolled_back``.
        """
        commit = self.last_commit()
        covered = set(commit.segments) if commit else set()
        rolled_back = []
        for file in self.storage.list("trajectories"):
            name = file.removesuffix(".parquet")
            if not file.endswith(".parquet") or name in covered:
                continue
            table = pq.read_table(pa.BufferReader(self.storage.read(f"trajectories/{file}")))
            self.storage.write(f"trajectories/rolled_back/{file}", parquet_bytes(mark_rolled_back(table)))
            self.storage.delete(f"trajectories/{file}")
            rolled_back.append(name)
        return rolled_back

    # --- views ----------------------------------------------------------------------------------------------------

    def committed_metrics(self, commit: Commit | None = None) -> list[dict[str, Any]]:
        """One row per step of the surviving lineage, in order."""
        commit = commit or self.last_commit()
        return [self._segment(name) for name in (commit.segments if commit else ())]

    def _segment(self, name: str) -> dict[str, Any]:
        if name not in self._rows:
            self._rows[name] = json.loads(self.storage.read(f"segments/{name}.json"))
        return self._rows[name]

    def write_views(self, commit: Commit | None = None) -> None:
        """Join the segments into metrics.jsonl (surviving lineage only) and events.jsonl (every event)."""
        rows = self.committed_metrics(commit)
        self.storage.write("metrics.jsonl", b"".join(to_json(row) for row in rows))
        files = [file for file in self.storage.list("segments") if file.startswith("event-")]
        events = [self._segment(file.removesuffix(".json")) for file in files]
        events.sort(key=lambda event: (event["attempt"], event["time"]))
        self.storage.write("events.jsonl", b"".join(to_json(event) for event in events))

    def trajectories(self) -> pa.Table:
        """All completions of the surviving lineage, in step order."""
        commit = self.last_commit()
        names = commit.segments if commit else ()
        tables = [pq.read_table(pa.BufferReader(self.storage.read(f"trajectories/{n}.parquet"))) for n in names]
        return pa.concat_tables(tables) if tables else pa.table({})


def _extend(lineage: tuple[LineageSpan, ...], span: LineageSpan) -> tuple[LineageSpan, ...]:
    if lineage and lineage[-1].attempt == span.attempt:
        return (*lineage[:-1], LineageSpan(attempt=span.attempt, first=lineage[-1].first, last=span.last))
    return (*lineage, span)


def parquet_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def fates(table: pa.Table) -> dict[str, int]:
    """How many completions met which fate."""
    counts = pc.value_counts(table["fate"]).to_pylist()
    return {str(row["values"]): int(row["counts"]) for row in counts}
