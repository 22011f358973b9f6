"""The command line on bad input: one line with the thing, its value and the remedy; exit code 1; nothing written."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray.exceptions import RayTaskError
from typer.testing import CliRunner, Result

from cluster import session
from cluster.cli import app
from cluster.config import load_recipe
from cluster.lease import Lease
from cluster.plain_errors import find_known, going_on
from cluster.run_store import RunStore
from cluster.starting import Attempt, check_start
from data.errors import ConfigError, EngineError, SetupError
from data.storage import Storage
from data.tables import to_table
from tests.cluster.fakes import question

QUICKSTART = str(Path(__file__).parents[2] / "recipes" / "quickstart.yaml")


def run(tmp_path: Path, *settings: str) -> Result:
    options = [part for setting in (f"run.storage={tmp_path / 'runs'}", *settings) for part in ("--set", setting)]
    return CliRunner().invoke(app, ["run", QUICKSTART, *options])


def check_refused(result: Result, tmp_path: Path, *texts: str) -> None:
    assert result.exit_code == 1
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and "Remedy: " in lines[0], lines
    for text in texts:
        assert text in lines[0]
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_a_typo(tmp_path: Path) -> None:
    check_refused(run(tmp_path, "loop.stpes=3"), tmp_path, "loop.stpes", "'steps'")


def test_a_missing_model(tmp_path: Path) -> None:
    result = run(tmp_path, "model.tiny=null", f"model.path={tmp_path / 'nothing'}")
    check_refused(result, tmp_path, str(tmp_path / "nothing"))


def test_a_directory_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    result = run(tmp_path, "model.tiny=null", f"model.path={tmp_path / 'folder'}")
    check_refused(result, tmp_path, "config.json is missing")


def parquet(tmp_path: Path, **columns: object) -> str:
    """A file of one good question, with some columns replaced."""
    table = to_table([question(1)])
    for name, value in columns.items():
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(name), pa.array([value], table.schema.field(name).type))
    pq.write_table(table, tmp_path / "questions.parquet")
    return f"data.questions={{source: parquet, path: {tmp_path / 'questions.parquet'}}}"


def test_a_question_without_options(tmp_path: Path) -> None:
    check_refused(run(tmp_path, parquet(tmp_path, options=[])), tmp_path, "options")


def test_a_question_with_an_answer_outside_its_options(tmp_path: Path) -> None:
    check_refused(run(tmp_path, parquet(tmp_path, answer_label="E")), tmp_path, "'E'")


def test_a_missing_question_file(tmp_path: Path) -> None:
    setting = f"data.questions={{source: parquet, path: {tmp_path / 'none.parquet'}}}"
    check_refused(run(tmp_path, setting), tmp_path, "none.parquet")


def test_an_existing_run_directory(tmp_path: Path) -> None:
    place = tmp_path / "runs" / "quickstart"
    place.mkdir(parents=True)
    (place / "run.yaml").write_text("recipe: {}\n")
    result = run(tmp_path)
    assert result.exit_code == 1 and "exists. Remedy: pass --resume" in result.stderr
    assert [path.name for path in place.iterdir()] == ["run.yaml"]


def test_a_directory_of_somebody_elses_files_is_neither_used_nor_deleted(tmp_path: Path) -> None:
    thesis = tmp_path / "runs" / "quickstart" / "thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("years of work")
    result = run(tmp_path)
    assert result.exit_code == 1 and "is no run" in result.stderr
    assert thesis.read_text() == "years of work"


def test_a_resume_of_nothing(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["run", QUICKSTART, "--set", f"run.storage={tmp_path / 'runs'}", "--resume"])
    check_refused(result, tmp_path, "there is no run at")


@pytest.mark.parametrize("content", ["", "{}", "a: [", "recipe: 3"])
def test_a_damaged_run_file(tmp_path: Path, content: str) -> None:
    place = tmp_path / "runs" / "quickstart"
    place.mkdir(parents=True)
    (place / "run.yaml").write_text(content)
    result = CliRunner().invoke(app, ["run", QUICKSTART, "--set", f"run.storage={tmp_path / 'runs'}", "--resume"])
    assert result.exit_code == 1 and result.stderr.startswith("error: ") and "Traceback" not in result.stderr


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    result = run(tmp_path)
    assert result.exit_code == 1 and "cannot write" in result.stderr


def opened(tmp_path: Path) -> Attempt:
    return Attempt.open(load_recipe(QUICKSTART), RunStore(Storage.open(str(tmp_path / "run"))))


def test_a_failed_attempt_takes_only_a_directory_of_its_own_in_which_nothing_happened(tmp_path: Path) -> None:
    opened(tmp_path).fail(RuntimeError("early"))
    assert not (tmp_path / "run").exists()
    attempt = opened(tmp_path)
    attempt.store.finish_stage("warm_up", {})
    attempt.fail(RuntimeError("late"))
    assert "attempt_failed" in (tmp_path / "run" / "events.jsonl").read_text()
    opened(tmp_path).fail(RuntimeError("resumed"))
    assert (tmp_path / "run" / "run.yaml").exists()


def test_a_failed_attempt_that_lost_its_lease_touches_nothing(tmp_path: Path) -> None:
    attempt = opened(tmp_path)
    (tmp_path / "run" / "lease.json").unlink()
    Lease(Storage.open(str(tmp_path / "run"))).acquire()
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    attempt.fail(RuntimeError("late"))
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_resume_with_another_recipe(tmp_path: Path) -> None:
    import yaml

    from cluster.config import dump_recipe

    recipe = load_recipe(QUICKSTART)
    store = RunStore(Storage.open(str(tmp_path)))
    store.storage.write("run.yaml", yaml.safe_dump({"recipe": yaml.safe_load(dump_recipe(recipe))}).encode())
    check_start(load_recipe(QUICKSTART, ["loop.steps=99", "rollouts.actors=2"]), store, resume=True)
    with pytest.raises(ConfigError, match=r"learning_rate was 0.001 and is 0.01"):
        check_start(load_recipe(QUICKSTART, ["grpo.optimizer.learning_rate=0.01"]), store, resume=True)
    with pytest.raises(ConfigError, match=r"rollouts.temperature was 1.0 and is 0.5"):
        check_start(load_recipe(QUICKSTART, ["rollouts.temperature=0.5"]), store, resume=True)


def test_a_port_that_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    refused = pytest.raises(SetupError, match=r"Address already in use.*fleming doctor")
    with refused, session.ray_session(load_recipe(QUICKSTART), print):
        pass


def test_storage_on_one_nodes_disk_is_refused_on_several_nodes(tmp_path: Path) -> None:
    several = session.Session(local=False, hosts=2, cpus=64, gpus=0, dashboard="")
    recipe = load_recipe(QUICKSTART, [f"run.storage={tmp_path}"])
    with pytest.raises(SetupError, match="the cluster has 2 nodes"):
        session.check_storage(recipe, several)


def test_a_dry_run_prints_the_recipe_and_the_plan_and_starts_nothing(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["run", QUICKSTART, "--dry-run", "--set", f"run.storage={tmp_path / 'runs'}"])
    assert result.exit_code == 0
    assert "max_staleness: 0" in result.stdout and "# Plan" in result.stdout
    assert not (tmp_path / "runs").exists()


def test_an_error_is_found_behind_groups_and_actors() -> None:
    known = EngineError("the engine died", remedy="resume")
    behind_ray = RuntimeError("task failed")
    behind_ray.cause = known  # type: ignore[attr-defined]
    assert find_known(ExceptionGroup("group", [ValueError("x"), ExceptionGroup("inner", [behind_ray])])) is known
    crossed = RayTaskError("f", "a traceback", known)
    assert str(find_known(crossed.as_instanceof_cause())) == str(known)
    assert find_known(ValueError("x")) is None


def test_how_to_go_on_is_the_command_of_whoever_started_it() -> None:
    words = ["run", "recipes/a.yaml", "--set", "run.name=x"]
    assert going_on(words, in_job=False) == ["fleming", *words, "--resume"]
    assert going_on([*words, "--resume"], in_job=True) == ["fleming", "submit", *words[1:], "--resume"]
    assert going_on(["resume", "s3://b/x"], in_job=True) == ["fleming", "resume", "s3://b/x"]
