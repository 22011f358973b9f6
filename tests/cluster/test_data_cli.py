"""fleming data: questions made, traced and built for a recipe; and one plain line for whatever is wrong."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from cluster.cli import app
from data.config import QuestionSourceConfig
from data.graph.store import write
from data.load import load_questions
from data.records import Question
from data.tables import read_parquet
from tests.data.synthesis.fixture import made_up_graph

SMALL = ("--set", "questions=24", "--set", "workers=1", "--set", "forms={diagnosis: 1, gene: 1}")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = str(tmp_path_factory.mktemp("graph") / "graph")
    write(made_up_graph().tables, place)
    return place


def data(*words: str) -> Result:
    return CliRunner().invoke(app, ["data", *words])


def made(graph: str, out: Path, *settings: str) -> Result:
    return data("synthesize", "--graph", graph, "--out", str(out), *SMALL, *settings)


def refused(result: Result, *texts: str) -> None:
    assert result.exit_code == 1, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and "Remedy: " in lines[0], lines
    for text in texts:
        assert text in lines[0]


def test_questions_are_made_again_alike_and_traced(graph: str, tmp_path: Path) -> None:
    first = made(graph, tmp_path / "q")
    assert first.exit_code == 0 and "questions on" in first.output
    once = (tmp_path / "q" / "questions.parquet").read_bytes()
    assert made(graph, tmp_path / "q").exit_code == 0  # the place may hold questions already
    assert (tmp_path / "q" / "questions.parquet").read_bytes() == once
    question = read_parquet(Question, str(tmp_path / "q" / "questions.parquet"))[0]
    shown = data("show", question.id[:10], "--questions", str(tmp_path / "q"))
    assert shown.exit_code == 0
    assert question.stem.split(".")[0] in shown.output.replace("\n", " ") and "made_up.tsv line" in shown.output


def test_more_than_the_graph_gives_is_said(graph: str, tmp_path: Path) -> None:
    result = made(graph, tmp_path / "q", "--set", "questions=9000", "--set", "forms={non_indication: 1}")
    assert result.exit_code == 0
    assert "9,000 questions were asked for" in result.output


def test_the_questions_of_a_recipe_are_built_as_a_run_has_them(graph: str, tmp_path: Path) -> None:
    source = {"source": "synthesis", "synthesis": {"graph": graph, "questions": 24, "workers": 1,
                                                   "forms": {"diagnosis": 1}, "warm_up_share": 0.3}}  # fmt: skip
    recipe = {"run": {"name": "t"}, "model": {"path": "some/model"}, "data": {"questions": source}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    result = data("build", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "built"))
    assert result.exit_code == 0, result.output
    again = load_questions(QuestionSourceConfig(source="parquet", path=str(tmp_path / "built" / "questions.parquet")))
    assert again == load_questions(QuestionSourceConfig.model_validate(source))
    assert again.train and again.warm_up
    refused(data("build", str(tmp_path / "nothing.yaml"), "--out", str(tmp_path / "b")), "nothing.yaml")
    bad = data("build", str(tmp_path / "recipe.yaml"), "--set", "data.questions.synthesis.graph=/nowhere")
    refused(bad, "/nowhere")


def test_a_graph_that_is_missing_or_damaged(graph: str, tmp_path: Path) -> None:
    refused(made(str(tmp_path / "nowhere"), tmp_path / "q"), "nowhere")
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in Path(graph).iterdir():
        content = file.read_bytes()
        (broken / file.name).write_bytes(content[: len(content) // 2] if file.name == "edges.parquet" else content)
    refused(made(str(broken), tmp_path / "q"), "broken")
    assert not (tmp_path / "q" / "questions.parquet").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("questions=0", "questions"),
        ("seed=-1", "seed"),
        ("seed=lucky", "seed"),
        ("forms={riddle: 1}", "riddle"),
        ("forms={diagnosis: 0}", "forms"),
        ("sed=3", "sed"),
        ("seed", "not of the form"),
        ("seed=[", "seed"),
        ("rewriter.url=http://127.0.0.1:9", "model"),
        ("seed.deep=1", "seed"),
    ],
)
def test_settings_that_make_no_sense(graph: str, tmp_path: Path, setting: str, said: str) -> None:
    refused(made(graph, tmp_path / "q", "--set", setting), said)


def test_a_place_that_cannot_be_written_is_refused_before_the_work(graph: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    refused(made(graph, tmp_path / "file" / "q"), "file", "--out")


def test_a_full_disk_is_named_with_the_option_that_chose_it(
    graph: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: str, content: bytes) -> None:
        if content:
            raise OSError(errno.ENOSPC, "No space left on device", path)
        Path(path).touch()

    monkeypatch.setattr("data.storage._write_and_sync", full)
    refused(made(graph, tmp_path / "q"), "no space left", "--out", "run the same command again")
    assert not list(tmp_path.glob("q/*"))


def test_show_without_questions_or_with_a_wrong_name(graph: str, tmp_path: Path) -> None:
    refused(data("show", "abc", "--questions", str(tmp_path)), "explanations.parquet")
    assert made(graph, tmp_path / "q").exit_code == 0
    refused(data("show", "zzz", "--questions", str(tmp_path / "q")), "zzz")
    (tmp_path / "q" / "explanations.parquet").write_bytes(b"PAR1 no table")
    refused(data("show", "abc", "--questions", str(tmp_path / "q")), "explanations.parquet")


def test_a_rewriter_that_is_not_there(graph: str, tmp_path: Path) -> None:
    settings = ("--set", "rewriter.url=http://127.0.0.1:9/v1", "--set", "rewriter.model=m")
    refused(made(graph, tmp_path / "q", *settings), "did not answer", "127.0.0.1:9")
