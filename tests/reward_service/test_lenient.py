"""The lenient reading, and that no reward can come from it."""

from __future__ import annotations

import ast
import dataclasses
import time
from pathlib import Path

import pytest

from reward_service.lenient import lenient_choice
from tests.data.examples import MARFAN


@pytest.mark.parametrize(
    ("text", "rule", "label"),
    [
        ("<think>x</think><answer>B</answer>", "strict", "B"),
        ("<answer>A</answer> no: <answer>B</answer>", "answer_tag", "B"),
        ("<think>x</think><answer>B. Arachnodactyly", "answer_tag", "B"),
        ("Long fingers, so \\boxed{B}.", "boxed", "B"),
        ("Long fingers, so \\boxed{\\text{B}}.", "boxed", "B"),
        ("Not A. The answer is B.", "phrase", "B"),
        ("The answer is **B**", "phrase", "B"),
        ("答案是B", "phrase", "B"),
        ("B", "whole", "B"),
        ("Arachnodactyly", "whole", "B"),
        ("<think>A or B</think>\nB.", "whole", "B"),
        ("A patient may have many findings.", "none", ""),  # no first letter found
        ("Arachnodactily", "none", ""),  # no nearest text
        ("The answer is A or B", "none", ""),
        ("", "none", ""),
        ("<answer></answer>", "none", ""),
    ],
)
def test_what_was_meant(text: str, rule: str, label: str) -> None:
    found = lenient_choice(text, MARFAN)
    assert (found.rule, "".join(found.labels)) == (rule, label)


def test_several_right_options() -> None:
    question = dataclasses.replace(MARFAN, answer_labels=("B", "D"))
    assert lenient_choice("The answer is D, B", question).labels == ("B", "D")


def test_ten_megabytes_take_no_time() -> None:
    begun = time.process_time()
    for piece in ("<answer>", "answer is ", "\\boxed{", "</think>", "İ"):
        lenient_choice(piece * (10_000_000 // len(piece)), MARFAN)
    assert time.process_time() - begun < 5.0


def test_no_module_that_scores_imports_it(checkout: Path) -> None:
    importers = []
    for path in sorted((checkout / "reward_service").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if any("lenient" in name for name in names):
                importers.append(path.name)
    assert importers == []
