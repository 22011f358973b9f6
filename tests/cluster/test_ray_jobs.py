"""What is sent, what is said when a cluster refuses, and how a log is followed through broken connections."""

from __future__ import annotations

import shlex
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import requests
from ray.exceptions import AuthenticationError
from typer.testing import CliRunner

from cluster import ray_jobs, submit
from cluster.cli import app
from cluster.ray_jobs import Job, RayJobs
from cluster.working_dir import CHECKOUT, check_size, entrypoint, pack, sent_recipe
from data.code import check_code, code_hash, hash_sources
from data.errors import ConfigError, FlemingError, RunStateError, SetupError

RECIPE = str(CHECKOUT / "recipes" / "quickstart.yaml")


class FakeClient:
    """One job of Ray, whose log comes in pieces over connections that break."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.sent: dict[str, Any] = {}
        self.connections: list[list[str | Exception]] = [["all of it\n"]]
        self.statuses = ["SUCCEEDED"]
        self.exit_code: int | None = 0
        self.metadata = {"fleming_run": "quickstart"}

    def submit_job(self, **arguments: Any) -> str:
        self.sent = arguments
        with zipfile.ZipFile(arguments["runtime_env"]["working_dir"]) as archive:
            self.sent["files"] = archive.namelist()
        return str(arguments["submission_id"])

    def get_job_info(self, job_id: str) -> Any:
        if job_id == "none":
            raise RuntimeError("Request failed with status code 404: Job none does not exist.")
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return SimpleNamespace(
            submission_id=job_id,
            status=status,
            metadata=self.metadata,
            entrypoint="python -m cluster run x",
            message="it fell over",
            driver_exit_code=self.exit_code,
            start_time=1000,
            end_time=3000,
        )

    def list_jobs(self) -> list[Any]:
        return [self.get_job_info("one"), SimpleNamespace(submission_id=None)]

    def stop_job(self, job_id: str) -> bool:
        return True

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        pieces = self.connections.pop(0) if len(self.connections) > 1 else self.connections[0]
        for piece in pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    fake = FakeClient("")

    def connect(address: str) -> FakeClient:
        fake.address = address
        return fake

    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", connect)
    return fake


def test_a_log_is_followed_through_a_broken_connection_and_nothing_is_shown_twice(client: FakeClient) -> None:
    client.connections = [
        ["one\n", "two\n", aiohttp.ClientConnectionError("gone")],
        [RuntimeError("WebSocket connection closed unexpectedly")],
        ["one\ntwo\nthr", "ee\n"],
        ["one\ntwo\nthree\nfour\n"],
    ]
    client.statuses = ["RUNNING", "SUCCEEDED"]
    shown: list[str] = []
    job = RayJobs("head:8265").follow("one", shown.append)
    assert "".join(shown) == "one\ntwo\nthree\nfour\n"
    assert job.code == 0 and client.address == "http://head:8265"


def test_a_cluster_that_is_gone_for_long_is_said_to_be(client: FakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_jobs, "PATIENCE_S", 0.1)
    client.connections = [[aiohttp.ClientConnectionError("gone")]]
    with pytest.raises(SetupError, match=r"no answer for 0.1 s; job one may still run.*fleming logs one"):
        RayJobs("http://head:8265").follow("one", lambda text: None)


@pytest.mark.parametrize(
    ("status", "exit_code", "code"),
    [("SUCCEEDED", 0, 0), ("FAILED", 7, 7), ("FAILED", None, 1), ("STOPPED", None, 130), ("STOPPED", -15, 130)],
)
def test_the_exit_code_is_the_jobs_own(client: FakeClient, status: str, exit_code: int | None, code: int) -> None:
    client.statuses, client.exit_code = [status], exit_code
    result = CliRunner().invoke(app, ["logs", "one"])
    assert result.exit_code == code
    assert "all of it" in result.stdout
    assert ("it fell over" in result.stderr) == (status == "FAILED" and exit_code is None)


def test_what_is_submitted(client: FakeClient) -> None:
    settings = ["--set", "data.questions={source: hpo, hpo: {train_questions: 16}}", "--set", "run.name=mine"]
    result = CliRunner().invoke(app, ["submit", RECIPE, "--no-wait", *settings, "--env", "A=b"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("fleming-mine-20")
    words = shlex.split(client.sent["entrypoint"])
    assert words == ["python", "-m", "cluster", "run", "recipes/quickstart.yaml", *settings]
    assert client.sent["metadata"] == {"fleming_run": "mine", "fleming_code": code_hash()}
    assert client.sent["runtime_env"]["env_vars"]["A"] == "b"
    assert "cluster/cli.py" in client.sent["files"] and "tests/conftest.py" not in client.sent["files"]


def test_a_resume_is_sent_by_the_runs_place(client: FakeClient) -> None:
    client.statuses, client.exit_code = ["FAILED"], 3
    place = "s3://bucket/runs/mine/"
    result = CliRunner().invoke(app, ["resume", place, "--address", "http://head:8265", "--set", "loop.steps=9"])
    assert result.exit_code == 3
    words = shlex.split(client.sent["entrypoint"])
    assert words == ["python", "-m", "cluster", "resume", place, "--set", "loop.steps=9"]
    assert client.sent["metadata"]["fleming_run"] == "mine"


def test_a_typo_is_answered_before_anything_is_sent(client: FakeClient) -> None:
    result = CliRunner().invoke(app, ["submit", RECIPE, "--set", "loop.stpes=3"])
    assert result.exit_code == 1 and "'steps'" in result.stderr and client.sent == {}
    result = CliRunner().invoke(app, ["submit", RECIPE, "--env", "A"])
    assert result.exit_code == 1 and "NAME=VALUE" in result.stderr and client.sent == {}


def test_jobs_are_listed(client: FakeClient) -> None:
    listed = CliRunner().invoke(app, ["jobs"]).stdout
    assert "one" in listed and "succeeded" in listed and "quickstart" in listed and "0:00:02" in listed


def test_names_of_others_jobs_are_text(client: FakeClient) -> None:
    client.metadata = {"fleming_run": "[/red]\x1b[2Jmine"}
    result = CliRunner().invoke(app, ["jobs"])
    assert result.exit_code == 0 and "[/red][2Jmine" in result.stdout and "\x1b" not in result.stdout


@pytest.mark.parametrize("error", [ValueError("Invalid gcs_address: http:"), KeyError("ray_version")])
def test_an_address_that_is_no_dashboard(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(address: str) -> None:
        raise error

    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", refuse)
    with pytest.raises(SetupError, match="no Ray dashboard answers"):
        RayJobs("http://")


def test_files_that_hold_keys_stay_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = tmp_path / "checkout"
    for name in (
        "recipes/.env",
        "recipes/.aws/credentials",
        "cluster/deploy/id_rsa",
        "data/tls.key",
        "data/records.py",
    ):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("x")
    (checkout / ".rayignore").write_text((CHECKOUT / ".rayignore").read_text())
    monkeypatch.setattr("cluster.working_dir.CHECKOUT", checkout)
    with zipfile.ZipFile(pack(tmp_path)) as archive:
        assert [name for name in archive.namelist() if not name.endswith("/")] == ["data/records.py"]


@pytest.mark.parametrize(
    ("raised", "kind", "text"),
    [
        (AuthenticationError("Authentication required: Missing token"), SetupError, r"wants a token.*RAY_AUTH_MODE"),
        (AuthenticationError("Authentication failed: invalid"), SetupError, r"refuses our token.*get-auth-token"),
        (ConnectionError("Failed to connect"), SetupError, r"no Ray dashboard answers at http://h:1.*ssh -L"),
        (requests.exceptions.ReadTimeout("slow"), SetupError, "no Ray dashboard answers"),
        (RuntimeError("Request failed with status code 500: a\nb"), SetupError, "refuses: Request failed.* a b"),
    ],
)
def test_refusals_in_plain_words(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, kind: type[FlemingError], text: str
) -> None:
    def connect(address: str) -> None:
        raise raised

    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", connect)
    with pytest.raises(kind, match=text):
        RayJobs("h:1")


@pytest.mark.parametrize(
    "words",
    [
        ["resume", "s3://KEY:hush@bucket/runs/mine", "--address", "http://head:8265"],
        ["resume", "s3://KEY:hush@bucket/runs/mine"],
        ["resume", "s3://b/runs/mine", "--address", "h", "--set", "run.storage=s3://KEY:hush@bucket/runs"],
        ["resume", "/r/mine", "--address", "h", "--set", "rewards.judge={url: 'http://me:hush@j/v1', model: m}"],
        ["submit", RECIPE, "--set", "run.storage=s3://KEY:hush@bucket/runs"],
    ],
)
def test_credentials_are_neither_sent_nor_repeated(client: FakeClient, words: list[str]) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1 and "holds credentials" in result.stderr and "hush" not in result.output
    assert client.sent == {}


def test_other_refusals(client: FakeClient) -> None:
    with pytest.raises(RunStateError, match=r"no job none at http://h:1.*fleming jobs"):
        RayJobs("h:1").get("none")
    with pytest.raises(SetupError, match="no URL of a dashboard"):
        RayJobs("ray://h:10001")
    client.statuses = ["RUNNING"]
    with pytest.raises(SetupError, match="still RUNNING"):
        RayJobs("h:1").stop("one", wait_s=0.1)


def test_an_explicit_address_wins_over_the_environment(client: FakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://other:8265")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    CliRunner().invoke(app, ["jobs", "--address", "http://mine:8265"])
    assert client.address == "http://mine:8265"
    CliRunner().invoke(app, ["jobs"])
    assert client.address == "http://other:8265"


def test_a_recipe_that_is_not_sent_is_refused(tmp_path: Path) -> None:
    package = pack(tmp_path)
    (tmp_path / "mine.yaml").write_text("run: {}")
    for recipe in (tmp_path / "mine.yaml", CHECKOUT / ".ci" / "run"):
        with pytest.raises(ConfigError, match=r"not among what is sent.*recipes/"):
            sent_recipe(recipe, package)
    assert sent_recipe(Path(RECIPE), package) == "recipes/quickstart.yaml"


def test_a_package_that_is_too_large_names_its_largest_files(tmp_path: Path) -> None:
    package = tmp_path / "package.zip"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("small", b"1")
        archive.writestr("data/large.bin", b"1" * 3_000_000)
    with pytest.raises(ConfigError, match=r"packs to 2.9 MiB, the limit is 1.0 MiB; the largest: data/large.bin"):
        check_size(package, limit=2**20)


def test_code_is_hashed_by_name_and_content(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.py").write_text("x = 1\n")
    first = hash_sources(tmp_path)
    (tmp_path / "data" / "notes.txt").write_text("no code")
    assert hash_sources(tmp_path) == first
    (tmp_path / "data" / "a.py").rename(tmp_path / "data" / "b.py")
    renamed = hash_sources(tmp_path)
    (tmp_path / "data" / "b.py").write_text("x = 2\n")
    assert len({first, renamed, hash_sources(tmp_path)}) == 3


def test_a_part_with_other_code_refuses() -> None:
    check_code(code_hash(), "rollout-0")
    with pytest.raises(SetupError, match=r"rollout-0 has loaded other code.*0123.*fleming submit"):
        check_code("0123", "rollout-0")


def test_the_entry_point_survives_the_shell() -> None:
    words = ["run", "recipes/a b.yaml", "--set", "run.name=$(x)"]
    assert shlex.split(entrypoint(*words)) == ["python", "-m", "cluster", *words]


def test_took() -> None:
    job = Job(id="j", status="FAILED", run="r", command="", message="", exit_code=1, started=10.0, ended=3735.0)
    assert submit._took(job) == "1:02:05"
