"""The fleming graph commands, on the fixtures of the importers."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cluster.cli import app
from tests.data.graph.sources import write_all


def fleming(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["graph", *arguments])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("graph")
    sources = [part for source in write_all(folder) for part in ("--source", source)]
    done = fleming("build", "--out", str(folder / "out"), *sources)
    assert done.exit_code == 0, done.output
    assert "statements" in done.output and "conflicts:" in done.output and "written to" in done.output
    return str(folder / "out")


def test_stats_with_a_picture(place: str, tmp_path: Path) -> None:
    done = fleming("stats", "--graph", place, "--png", str(tmp_path / "a.png"))
    assert done.exit_code == 0 and "disease" in done.output and "denials" in done.output
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_card_shows_names_evidence_and_denials(place: str, tmp_path: Path) -> None:
    done = fleming("show", "long finger syndrome", "--graph", place, "--png", str(tmp_path / "a.png"),
                   "--export", str(tmp_path / "a.json"))  # fmt: skip
    assert done.exit_code == 0, done.output
    flat = " ".join(done.output.split())
    for text in ("MONDO:0007947", "also called: ", "rarity: 1.00 by flag", "disputed: has phenotype", "75% of patients",
                 "phenotype.hpoa 4; PMID:7 PCS", "Congenital onset"):  # fmt: skip
        assert text in flat, text
    assert (tmp_path / "a.png").stat().st_size > 10_000 and (tmp_path / "a.json").stat().st_size > 100


def test_a_path_and_its_picture(place: str, tmp_path: Path) -> None:
    done = fleming("path", "Alphadrug", "FBN1", "--graph", place, "--png", str(tmp_path / "a.png"))
    assert done.exit_code == 0, done.output
    assert "treats ->" in done.output and (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_validate(place: str) -> None:
    done = fleming("validate", "--graph", place)
    assert done.exit_code == 0 and "sound" in done.output


def test_a_source_that_lost_all_its_edges_is_told(tmp_path: Path) -> None:
    write_all(tmp_path)
    (tmp_path / "table" / "nodes.csv").write_text("ID,Kind,Label,Also,Same\n7,illness,other,,\n", encoding="utf-8")
    done = fleming("build", "--out", str(tmp_path / "out"), "--source", f"table={tmp_path / 'table' / 'mapping.yaml'}")
    assert done.exit_code == 0
    assert "warning: all 3 edges of source mine were dropped, the first because of: unknown end" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("show", "nobody"), ("path", "Alphadrug", "nobody"), ("stats", "--graph", "nowhere"),
     ("validate", "--graph", "nowhere"), ("build", "--source", "umls"), ("build", "--source", "hetionet=nowhere")],
)  # fmt: skip
def test_mistakes_are_one_line_and_exit_with_1(place: str, arguments: tuple[str, ...]) -> None:
    more = () if "--graph" in arguments or arguments[0] == "build" else ("--graph", place)
    done = fleming(*arguments, *more)
    assert done.exit_code == 1 and "Remedy" in done.output + (done.stderr or "")
