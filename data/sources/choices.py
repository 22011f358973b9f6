"""Multiple-choice questions in the shape that most medical benchmarks are published in, from a file or the hub.

One row per question: a text, options, and which of them is right. MedQA, MedXpertQA, MMLU-Pro and many private sets
differ in the names of the columns only (`ChoicesConfig`). The shape of a row is met where it differs: options as a
mapping from label to text or as a list; the answer as a label, as the text of an option, or as an index from 0; a
context as one text or as a list of sentences.

A row that cannot be asked (an answer outside the options, repeated options, no text) is left out and counted: a public
file has some, and none of them may stop a run or teach it something false.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.config import ChoicesConfig
from data.errors import DataError
from data.records import Option, Provenance, Question
from data.sources.hpo import QuestionSplits

SPLITS = ("train", "held_out", "warm_up")
LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
Row = Mapping[str, Any]


def choices_splits(config: ChoicesConfig) -> QuestionSplits:
    """The questions that ``config`` asks for, drawn by its seed; no question stands in two splits.

    Raises:
        DataError: the file or hub set cannot be read, or holds too few questions that fit; says why rows were left out.
    """
    questions, left_out = questions_of(rows_of(config), config)
    random.Random(f"{config.seed} choices").shuffle(questions)
    counts = (config.train_questions, config.held_out_questions, config.warm_up_questions)
    if sum(counts) > len(questions):
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common()) or "none"
        raise DataError(
            f"{config.path} has {len(questions)} questions that fit, {sum(counts)} are asked for (left out: {why})",
            remedy="ask for fewer train_questions, held_out_questions or warm_up_questions, or raise max_chars",
        )
    parts: dict[str, tuple[Question, ...]] = {}
    for split, count in zip(SPLITS, counts, strict=True):
        parts[split] = tuple(replace(question, split=split) for question in questions[:count])
        del questions[:count]
    return QuestionSplits(**parts)


def questions_of(rows: Iterable[Row], config: ChoicesConfig) -> tuple[list[Question], Counter[str]]:
    """Questions in the order of ``rows``, each text once, and how many rows were left out for which reason.

    Raises:
        DataError: a row lacks a column: then all do.
    """
    asked: dict[str, Question] = {}
    left_out: Counter[str] = Counter()
    for number, row in enumerate(rows):
        question, reason = _question(row, number, config)
        key = question.stem + question.context if question else ""
        if question and len(key) + sum(len(option.text) for option in question.options) > config.max_chars > 0:
            reason = "longer than max_chars"
        elif key in asked:
            reason = "repeated"
        elif question:
            asked[key] = question
            continue
        left_out[reason] += 1
    return list(asked.values()), left_out


def rows_of(config: ChoicesConfig) -> Iterator[Row]:
    """The rows of a ``.jsonl``, ``.json`` (a list) or ``.parquet`` file, or of a data set on the hub.

    Raises:
        DataError: there is no such file, it is damaged, or the hub does not give the set.
    """
    file = Path(config.path).expanduser()
    if not file.suffix and not file.exists():
        yield from _hub_rows(config)
        return
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet as pq

            yield from pq.ParquetFile(file).read().to_pylist()
        elif file.suffix == ".jsonl":
            with file.open(encoding="utf-8-sig") as lines:
                yield from (json.loads(line) for line in lines if line.strip())
        elif file.suffix == ".json":
            yield from json.loads(file.read_text(encoding="utf-8-sig"))
        else:
            raise DataError(f"{file} is none of .jsonl, .json and .parquet", remedy="convert the file to one of them")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {file}: {str(error)[:160]}", remedy="give the path of a whole file") from error


def _hub_rows(config: ChoicesConfig) -> Iterator[Row]:
    """Through `datasets`, which keeps its own cache; no code of the set is run."""
    from datasets import load_dataset

    try:
        yield from load_dataset(config.path, split=config.hub_split)
    except Exception as error:  # every hub, network and format error has its own class
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise DataError(
            f"{config.path!r} is no file here, and the hub does not give it: {reason}",
            remedy="correct path or hub_split; without a network give a local .jsonl, .json or .parquet file",
        ) from error


def _question(row: Row, number: int, config: ChoicesConfig) -> tuple[Question | None, str]:
    """The question of a row, or None and why there is none."""
    columns = config.columns
    wanted = [columns.question, columns.options, columns.answer]
    missing = [name for name in wanted if not isinstance(row, Mapping) or name not in row]
    if missing:
        there = sorted(row)[:20] if isinstance(row, Mapping) else type(row).__name__
        raise DataError(
            f"row {number} of {config.path} lacks {missing}; it has {there}",
            remedy="name the columns of your file in data.questions.choices.columns",
        )
    options = _options(row[columns.options])
    label = _label(row[columns.answer], options)
    if label is None:
        return None, "with an answer outside its options"
    if len({" ".join(option.text.split()).casefold() for option in options}) < len(options):
        return None, "with repeated options"
    name = config.name or Path(config.path).stem
    try:
        question = Question(
            source=name,
            language=config.language,
            stem=_text(row[columns.question]),
            context=_text(row.get(columns.context)),
            options=options,
            answer_label=label,
            provenance=Provenance(dataset=name, row=str(number)),
        )
    except DataError:
        return None, "without a text or with empty options"
    return question, ""


def _text(value: object) -> str:
    """A text, or sentences joined by a space; nothing for null."""
    if isinstance(value, list | tuple):
        return " ".join(_text(part) for part in value)
    # A structure is no text: its question is left out for want of one.
    return "" if value is None or isinstance(value, Mapping) else str(value).strip()


def _options(value: object) -> tuple[Option, ...]:
    if isinstance(value, Mapping):
        # A Parquet file writes null where a question lacks an option that another has.
        pairs = [(str(label).strip(), text) for label, text in value.items() if text is not None]
    elif isinstance(value, list | tuple):
        pairs = list(zip(LABELS, value, strict=False))
    else:
        pairs = []
    return tuple(Option(label=label, text=_text(text)) for label, text in pairs)


def _label(answer: object, options: tuple[Option, ...]) -> str | None:
    """The label that ``answer`` names: a label, else an option's whole text, else (for an integer) an index from 0."""
    if isinstance(answer, int) and not isinstance(answer, bool):
        return options[answer].label if 0 <= answer < len(options) else None
    text = _text(answer)
    if any(option.label == text for option in options):
        return text
    return next((option.label for option in options if option.text == text), None)
