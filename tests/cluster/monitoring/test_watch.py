"""fleming watch: what it reads out of a run, what it draws, and that hostile text stays text."""

from __future__ import annotations

import http.server
import io
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from cluster.cli import app
from cluster.monitoring import remote
from cluster.monitoring.remote import ClusterReader, figures_of
from cluster.monitoring.sight import MAX_SEGMENT_BYTES, RunReader, plain
from cluster.monitoring.view import curve, render, resample, sparkline
from cluster.run_store import RunStore
from data.errors import SetupError
from data.records import Completion, Score, VersionSpan
from data.storage import Storage
from data.tables import Fate, RolloutRow, rollout_table

HOSTILE = "\x1b[2J\x1b]0;owned\x07[bold red]not markup[/] \u202egnirts\x00\r\n" + "long " * 2000


def row(
    text: str, *, step: int = 1, reason: str = "correct", fate: Fate = "trained", reward: float = 1.1
) -> RolloutRow:
    completion = Completion(
        question_id="q",
        draw=0,
        sample_index=0,
        seed=0,
        prompt_token_ids=(1,),
        token_ids=(2,),
        logprobs=(-0.5,),
        version_spans=(VersionSpan(start=0, end=1, version=0),),
        finish_reason="stop",
        text=text,
    )
    return RolloutRow(
        step=step,
        attempt=1,
        completion=completion,
        score=Score(correct=1.0, format=1.0, reward=reward, reason=reason),
        fate=fate,
        verifier_version="v",
        prompt_version="p",
        advantage=0.5,
    )


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """A run of three steps, the last two of which a second attempt ran again."""
    store = RunStore(Storage.open(str(tmp_path / "runs" / "mine")))
    store.storage.write("run.yaml", b"recipe: {}\n")
    store.begin_attempt({})
    for step in (1, 2, 3):
        store.write_step(step, {"rollout/accuracy": 0.1, "learner/entropy": 1.0}, rollout_table([row("old")]))
    store.write_event("attempt_started")
    store.begin_attempt({})
    for step in (2, 3):
        metrics = {"rollout/accuracy": 0.3 * step, "learner/entropy": 0.5, "eval/train_greedy": 0.75}
        rows = [row("right answer"), row(HOSTILE, reason="wrong", reward=0.1), row("late", fate="stale")]
        store.write_step(step, metrics, rollout_table(rows))
    store.write_event("commit", step=3, note=HOSTILE)
    store.write_live({"run": "mine", "figures": FIGURES})
    return store


FIGURES = {
    "loop/stage/rl": 1.0,
    "loop/stage/finished": 0.0,
    "loop/phase/learn": 1.0,
    "loop/phase/rollout": 0.0,
    "loop/step": 3.0,
    "loop/steps_planned": 8.0,
    "loop/attempt": 2.0,
    "rollout/running_requests/rollout-0": 12.0,
    "rollout/generated_tokens/rollout-0": 3456.0,
    "rewards/actors": 1.0,
}


def printed(reader: RunReader | ClusterReader, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(render(reader.look()))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_a_run_is_read_as_it_stands(store: RunStore) -> None:
    sight = RunReader(store.storage).look()
    assert [one["rollout/accuracy"] for one in sight.rows] == [0.1, 0.6, pytest.approx(0.9)]
    assert (sight.state, sight.stage, sight.phase) == ("live", "rl", "learn")
    assert {one.reason for one in sight.completions} == {"correct", "wrong"}
    assert {one.fate for one in sight.completions} == {"trained", "stale"}
    assert sight.events[-1].text.startswith("commit")
    text = printed(RunReader(store.storage))
    for said in (
        "mine",
        "▸rl ",
        "▸learn ",
        "step 3 of 8",
        "attempt 2",
        "rollout-0",
        "3,456",
        "right answer",
        "commit",
        "90.0%",
        "stale",
    ):
        assert said in text, said
    assert "█" in text


@pytest.mark.parametrize("width", [20, 80, 200])
def test_hostile_text_stays_text(store: RunStore, width: int) -> None:
    text = printed(RunReader(store.storage), width)
    assert not {"\x1b", "\x07", "\x00", "\r", "\u202e"} & set(text)
    assert max(map(len, text.splitlines())) <= width
    assert len(text) < 40_000
    if width > 20:
        assert "[bold red]not" in text.replace("\n", " ")


@given(st.text(), st.integers(2, 50))
def test_plain_text_is_one_bounded_printable_line(text: str, limit: int) -> None:
    line = plain(text, limit)
    assert len(line) <= limit
    assert all(char == " " or char.isprintable() for char in line)


def test_a_damaged_or_huge_file_is_left_out(store: RunStore) -> None:
    storage = store.storage
    storage.write("live.json", b"{" + b" " * (MAX_SEGMENT_BYTES + 1) + b"}")
    storage.write("segments/step-000004.attempt-02.json", b"[" * 100_000)
    storage.write("segments/step-000005.attempt-02.json", b'{"rollout/accuracy": "high", "learner/loss": NaN}')
    storage.write("segments/event-00009.attempt-02.json", b'"text"')
    storage.write("trajectories/step-000009.attempt-02.parquet", b"no parquet \x1b[31m")
    sight = RunReader(storage).look()
    assert sight.age_s is None and sight.state == "not started" and len(sight.rows) == 5
    assert sight.rows[-1] == {} and "step-000009" in sight.notes[0]
    assert "\x1b" not in printed(RunReader(storage))


@pytest.mark.timeout(20)
def test_pipes_and_devices_in_a_run_directory_neither_hang_nor_fill_memory(store: RunStore) -> None:
    root = Path(store.storage.root)
    (root / "live.json").unlink()
    os.mkfifo(root / "live.json")
    (root / "segments" / "step-000008.attempt-02.json").symlink_to("/dev/zero")
    (root / "segments" / "event-00008.attempt-02.json").symlink_to(root / "nowhere")
    os.mkfifo(root / "trajectories" / "step-000009.attempt-02.parquet")
    (root / "segments" / "step-000007.attempt-02.json").mkdir()
    reader = RunReader(store.storage)
    for _ in range(2):  # a segment is read once, and its note stays
        sight = reader.look()
        assert (len(sight.rows), sight.rows[-1]) == (5, {})
        said = " ".join(sight.notes)
        assert "step-000009.attempt-02.parquet is no regular file" in said and "live.json is no regular file" in said
        assert "step-000008.attempt-02.json is no regular file" in said
    (root / "live.json").unlink()
    store.write_live({"run": "mine", "figures": FIGURES})
    assert "live.json" not in " ".join(reader.look().notes)
    assert "is no regular file" in printed(reader)


def test_a_file_that_grows_without_end_is_read_to_its_bound(store: RunStore) -> None:
    with (Path(store.storage.root) / "live.json").open("wb") as file:
        file.truncate(1 << 40)  # no disk behind it
    assert f"live.json is larger than {MAX_SEGMENT_BYTES:,} bytes" in " ".join(RunReader(store.storage).look().notes)


def test_numbers_and_types_that_no_run_writes_are_left_out(store: RunStore) -> None:
    root = Path(store.storage.root)
    (root / "live.json").write_text('{"figures": {"loop/step": ' + "9" * 4000 + "}}")
    for step, value in (("00001", "1e308"), ("00002", "-1e308"), ("00003", "1e308")):
        (root / "segments" / f"step-{step}.attempt-09.json").write_text('{"rollout/reward_mean": ' + value + "}")
    pq.write_table(
        pa.table({"reward": ["a"], "reason": [1], "fate": [b"x"], "text": [[1]]}), root / "trajectories" / "z.parquet"
    )
    sight = RunReader(store.storage).look()
    assert sight.figures == {} and "cannot be read" in sight.notes[0]
    assert not any("rollout/reward_mean" in one for one in sight.rows)
    printed(RunReader(store.storage))


def test_a_run_that_went_silent_and_one_that_finished(store: RunStore) -> None:
    live = json.loads(store.storage.read("live.json"))
    store.storage.write("live.json", json.dumps({**live, "time": "2020-01-01T00:00:00+00:00"}).encode())
    assert RunReader(store.storage).look().state == "silent"
    figures = {**FIGURES, "loop/stage/rl": 0.0, "loop/stage/finished": 1.0}
    store.storage.write("live.json", json.dumps({**live, "figures": figures}).encode())
    assert RunReader(store.storage).look().state == "finished"


def test_the_command_prints_once_and_draws_a_picture(store: RunStore, tmp_path: Path) -> None:
    picture = tmp_path / "view.svg"
    done = CliRunner().invoke(app, ["watch", store.storage.uri, "--once", "--svg", str(picture)])
    assert done.exit_code == 0 and "right answer" in done.output
    assert picture.read_text().startswith("<svg")
    done = CliRunner().invoke(app, ["watch", str(tmp_path / "none"), "--once"])
    assert done.exit_code == 1 and "there is no run at" in done.output


def test_a_store_without_a_step_shows_what_there_is(tmp_path: Path) -> None:
    store = RunStore(Storage.open(str(tmp_path / "run")))
    store.storage.write("run.yaml", b"")
    assert "not started" in printed(RunReader(store.storage))


# --- drawing --------------------------------------------------------------------------------------------------------


def test_sparklines_and_curves() -> None:
    assert sparkline([0, 1, 2, 3], 10) == "▁▃▆█"
    assert sparkline([5, 5], 10) == "▄▄" and sparkline([], 10) == ""
    assert curve([0.0, 0.5, 1.0], 10, 2) == ["  █", " ██"]
    assert curve([2.0, -1.0], 10, 1) == ["█ "]


@given(st.lists(st.floats(0, 1), max_size=300), st.integers(1, 40))
def test_a_curve_keeps_its_bounds(values: list[float], width: int) -> None:
    kept = resample(values, width)
    assert len(kept) == min(width, len(values))
    assert all(min(values) - 1e-9 <= value <= max(values) + 1e-9 for value in kept)


# --- a cluster ------------------------------------------------------------------------------------------------------

PAGE = """# HELP ray_fleming_loop_step optimiser steps taken
# TYPE ray_fleming_loop_step gauge
ray_fleming_loop_step{run="mine",WorkerId="1"} 3.0
ray_fleming_loop_heartbeat{run="mine"} NOW
ray_fleming_loop_stage{run="mine",stage="rl"} 1.0
ray_fleming_loop_info{run="mine",uri="WHERE"} 1.0
ray_fleming_rollout_generated_tokens_total{run="mine",actor="rollout-0"} 77.0
ray_fleming_learner_entropy{run="mine"} NaN
ray_fleming_loop_step{run="other"} 9.0
ray_fleming_no_such{run="mine"} 1.0
ray_node_mem_used{x="y"} 1.0
"""


def test_figures_of_a_metrics_page() -> None:
    found = figures_of(PAGE.replace("NOW", "5"))
    assert found["mine"]["rollout/generated_tokens/rollout-0"] == 77.0
    assert found["mine"]["loop/info/WHERE"] == 1.0 and found["other"] == {"loop/step": 9.0}
    assert "learner/entropy" not in found["mine"]


def test_hostile_labels_of_a_metrics_page_stay_text() -> None:
    page = 'ray_fleming_rollout_running_requests{run="a\x1b[2J",actor="\x1b]0;b"} 1\n'
    page += 'ray_fleming_loop_step{run="a"} 1e300\n'
    assert figures_of(page) == {"a[2J": {"rollout/running_requests/]0;b": 1.0}}


class FakeRay(http.server.BaseHTTPRequestHandler):
    """The dashboard's API and, at the same port, a node's metrics."""

    where = ""
    replaced: dict[str, str] = {}  # noqa: RUF012
    moved: dict[str, str] = {}  # noqa: RUF012
    tokens: list[str | None] = []  # noqa: RUF012  # a handler is made anew for each request

    def do_GET(self) -> None:
        port = int(self.headers["host"].rpartition(":")[2])
        self.tokens.append(self.headers.get("authorization"))
        actors = [
            {"name": "mine/rollout-0", "state": "ALIVE"},
            {"name": "x/reward-0", "state": "ALIVE"},
            {"state": "DEAD"},
        ]
        raylet = {"state": "ALIVE", "metricsExportPort": port}
        answers = {
            "/nodes": {"data": {"summary": [{"ip": "127.0.0.1", "raylet": raylet}]}},
            "/api/v0/actors": {"data": {"result": {"result": actors}}},
        }
        path = self.path.partition("?")[0]
        page = PAGE.replace("NOW", str(time.time())).replace("WHERE", self.where)
        body = self.replaced.get(path, page if path == "/metrics" else json.dumps(answers.get(path, {})))
        if path in self.moved:
            self.send_response(307)
            self.send_header("location", self.moved[path])
        else:
            self.send_response(200 if path in (*answers, "/metrics") else 404)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def ray_address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(remote, "_token_headers", lambda: {"authorization": "Bearer secret"})
    FakeRay.where, FakeRay.tokens, FakeRay.replaced, FakeRay.moved = "", [], {}, {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeRay)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    # Another name for the same host: so that a node's metrics are elsewhere than the dashboard.
    yield f"http://localhost:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_cluster_is_seen_through_its_dashboard(ray_address: str, store: RunStore) -> None:
    sight = ClusterReader(ray_address).look()
    assert (sight.run, sight.state, sight.stage) == ("mine", "live", "rl")
    assert [(actor.name, actor.state) for actor in sight.actors] == [("rollout-0", "ALIVE")]
    assert "cannot be read from here" in sight.notes[0]
    assert FakeRay.tokens.count("Bearer secret") == 2 and None in FakeRay.tokens, (
        "the token goes to the dashboard alone"
    )
    FakeRay.where = store.storage.uri
    text = printed(ClusterReader(ray_address))
    assert "right answer" in text and "rollout-0 alive" in text


def test_a_redirect_never_gets_the_token(ray_address: str) -> None:
    elsewhere = ray_address.replace("localhost", "127.0.0.1")
    FakeRay.moved = {"/nodes": f"{elsewhere}/stolen\x1b[2J"}
    with pytest.raises(SetupError, match=r"/nodes.* sends us on to http://127\.0\.0\.1:\d+/stolen\[2J.*Remedy: give"):
        ClusterReader(ray_address).look()
    assert FakeRay.tokens == ["Bearer secret"], "one request, to the address that was given"


def test_what_a_cluster_cannot_show_is_said(ray_address: str) -> None:
    with pytest.raises(SetupError, match=r"no run 'third' .* runs there: mine, other"):
        ClusterReader(ray_address, run="third").look()
    for address in ("http://127.0.0.1:9", "http://head:port", "http:// x"):
        with pytest.raises(SetupError, match="does not answer"):
            ClusterReader(address).look()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/nodes", '{"data": null}'),
        ("/nodes", '{"data": {"summary": ["x", {"raylet": 1}]}}'),
        ("/nodes", "[" * 100_000),
        ("/metrics", 'ray_fleming_loop_step{run="a 1'),
    ],
)
def test_answers_of_another_shape_are_no_defect(ray_address: str, path: str, body: str) -> None:
    FakeRay.replaced = {path: body}
    with pytest.raises(SetupError, match=r"no run reports metrics there|not Ray's dashboard"):
        ClusterReader(ray_address).look()
    FakeRay.replaced = {"/api/v0/actors": '{"data": {"result": {"result": [{"name": "mine/rollout-0"}, 1]}}}'}
    assert [(actor.name, actor.state) for actor in ClusterReader(ray_address).look().actors] == [("rollout-0", "?")]


def test_a_port_that_does_not_speak_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH\r\n")
                connection.recv(4096)

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(SetupError, match="does not answer"):
            ClusterReader(f"http://127.0.0.1:{server.getsockname()[1]}").look()
