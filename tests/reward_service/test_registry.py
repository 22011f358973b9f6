"""How the verifier of a question is found, and what happens when one breaks its protocol."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from data.errors import ConfigError, DataError
from data.records import Question
from reward_service.config import RewardConfig
from reward_service.registry import FunctionVerifier, load_verifier, verifier_for
from reward_service.reward import score_text, verifier_version
from reward_service.verdict import Verdict, VerificationError, judge
from tests.data.examples import MARFAN
from tests.reward_service.examples import answered, open_question

CONFIG = RewardConfig()


def shouting(question: Question, answer: str) -> bool:
    """The example of a user verifier: the accepted answer, in capitals."""
    return answer == question.answer_text.upper()


def test_user_verifier_by_module_and_function() -> None:
    config = RewardConfig(user_verifiers={"shout": f"{__name__}:shouting"})
    question = open_question("shout", "stroke")
    assert score_text(question, answered("STROKE"), config).reason == "correct"
    assert score_text(question, answered("stroke"), config).reason == "wrong"
    assert verifier_version(question, config) == "shout/unversioned"


def test_the_recipe_may_give_a_source_another_verifier() -> None:
    config = RewardConfig(verifier_by_source={"loud": "shout"}, user_verifiers={"shout": f"{__name__}:shouting"})
    assert score_text(open_question("text", "stroke", source="loud"), answered("STROKE"), config).correct == 1.0
    assert score_text(open_question("text", "stroke", source="quiet"), answered("Stroke"), config).correct == 1.0


def test_user_verifier_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "loud-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loud\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[fleming.verifiers]\nloudly = {__name__}:shouting\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_verifier("loudly", "x").verify(open_question("x", "stroke"), "STROKE").correct


@pytest.mark.parametrize("target", ["os:nothing", "no_such_module:f", "no-such-entry-point", "math:pi", "json:"])
def test_what_is_no_verifier_is_named(target: str) -> None:
    with pytest.raises(ConfigError, match="user_verifiers"):
        load_verifier(target, "mine")


@pytest.mark.parametrize("name", ["os:system", "subprocess:run", "nothing", "judge.JudgeVerifier"])
def test_data_can_choose_a_name_and_never_import(name: str) -> None:
    with pytest.raises(DataError, match="unknown"):
        verifier_for(open_question(name, "x"), CONFIG)


def test_a_question_without_options_cannot_be_multiple_choice() -> None:
    with pytest.raises(DataError, match="no options"):
        verifier_for(open_question("choice", "x"), CONFIG)
    with pytest.raises(ConfigError, match="judge"):
        verifier_for(open_question("judge", "x"), CONFIG)


@pytest.mark.parametrize(
    "said",
    [
        math.nan,
        1.0,
        None,
        "correct",
        {"correct": True},
        Verdict(correct=math.nan, reason="x"),  # type: ignore[arg-type]
        Verdict(correct=1, reason="x"),  # type: ignore[arg-type]
        Verdict(correct=True, reason=None),  # type: ignore[arg-type]
        Verdict(correct=True, reason="x", readable=False),
    ],
)
def test_what_is_no_verdict_is_a_failed_verification(said: object) -> None:
    with pytest.raises(VerificationError):
        judge(FunctionVerifier(lambda *_: said, "f"), MARFAN, "B")


def test_a_verifier_that_raises_is_a_failed_verification() -> None:
    def broken(question: Question, answer: str) -> bool:
        raise KeyError(answer)

    with pytest.raises(VerificationError, match="KeyError"):
        score_text(MARFAN, answered("B"), _with(broken))
    # The format is looked at first: a malformed completion needs no verifier.
    assert score_text(MARFAN, "B", _with(broken)).reason == "missing"


BROKEN: dict[str, Any] = {}


def _with(function: Any) -> RewardConfig:
    BROKEN["function"] = function
    return RewardConfig(
        verifier_by_source={MARFAN.source: "broken"}, user_verifiers={"broken": f"{__name__}:call_broken"}
    )


def call_broken(question: Question, answer: str) -> object:
    return BROKEN["function"](question, answer)


def test_the_example_of_the_document_is_a_verifier(checkout: Path) -> None:
    page = (checkout / "docs" / "rewards.md").read_text(encoding="utf-8")
    code = page.split("### A verifier of your own")[1].split("```python\n")[1].split("```")[0]
    namespace: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "docs/rewards.md", "exec"), namespace)
    verifier = namespace["StageVerifier"]()
    question = open_question("stage", "Stage IIIA")
    said = {a: judge(verifier, question, a) for a in ("3a", "stage iiia.", "IIIB", "3", "advanced", "stage 9")}
    assert [v.reason for v in said.values()] == ["correct", "correct", "wrong", "wrong", "no_stage", "no_stage"]
