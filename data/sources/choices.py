"""Multiple-choice questions in the shape that most medical benchmarks are published in, from a file or the hub.

One row per question: a text, options, and which of them is right. MedQA, MedXpertQA, MMLU-Pro and many private sets
differ in the names of the columns only (`ChoicesConfig`). The shape of a row is met where it differs: options as a
mapping from label to text or as a list; the answer as a label, as the text of an option, or as an index; a
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
from data.sources.hpo import SPLITS, QuestionSplits

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
    why = ", ".join(f"{count:,} {reason}" for reason, count in left_out.most_common())
    if sum(counts) > len(questions):
        raise DataError(
            f"{config.path} has {len(questions)} questions that fit, {sum(counts)} are asked for "
            f"(left out: {why or 'none'})",
            remedy="ask for fewer train_questions, held_out_questions or warm_up_questions, or raise max_chars",
        )
    ends = [split for split, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
    return QuestionSplits.of((replace(q, split=s) for q, s in zip(questions, ends, strict=False)), left_out=why)


def questions_of(rows: Iterable[Row], config: ChoicesConfig) -> tuple[list[Question], Counter[str]]:
    """Questions in the order of ``rows``, each text once, and how many rows were left out for which reason.

    Raises:
        DataError: a row lacks a column: then all do; or all answers are integers that seem to count from 1.
    """
    asked: dict[str, Question] = {}
    left_out: Counter[str] = Counter()
    numbers = _Numbers(config)
    for number, row in enumerate(rows):
        numbers.look(row)
        question, reason = _question(row, number, config)
        key = " ".join(f"{question.stem} {question.context}".split()).casefold() if question else ""
        size = len(question.stem) + len(question.context) if question else 0
        if question and size + sum(len(option.text) for option in question.options) > config.max_chars > 0:
            reason = "longer than max_chars"
        elif key in asked:
            reason = "repeated"
        elif question:
            asked[key] = question
            continue
        left_out[reason] += 1
    numbers.check()
    return list(asked.values()), left_out


class _Numbers:
    """Notices answers numbered from 1 in a file that is read from 0: all its questions would be taught wrong."""

    def __init__(self, config: ChoicesConfig) -> None:
        self._config = config
        self._zeros = self._beyond = 0

    def look(self, row: Row) -> None:
        columns = self._config.columns
        number = _number(row.get(columns.answer)) if isinstance(row, Mapping) else None
        if number is None:
            return
        options = _options(row.get(columns.options))
        if str(number) not in {option.label for option in options}:
            self._zeros += number == 0
            self._beyond += number == len(options)

    def check(self) -> None:
        """Raises `DataError`."""
        if self._config.columns.first_index == 0 and self._beyond > 1 and not self._zeros:
            raise DataError(
                f"the answers of {self._config.path} seem to be numbered from 1: {self._beyond} are equal to the "
                "number of options, none is 0",
                remedy="set data.questions.choices.columns.first_index to 1",
            )


def is_file(path: str) -> bool:
    """True for a file, there or not; a name without an ending that is no path here is one of the hub."""
    file = Path(path).expanduser()
    return bool(file.suffix) or file.exists()


def rows_of(config: ChoicesConfig) -> Iterator[Row]:
    """The rows of a ``.jsonl``, ``.json`` (a list) or ``.parquet`` file, or of a data set on the hub.

    Raises:
        DataError: there is no such file, it is damaged, or the hub does not give the set.
    """
    if not is_file(config.path):
        yield from _hub_rows(config)
        return
    file = Path(config.path).expanduser()
    where = str(file)
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet as pq

            yield from pq.ParquetFile(file).read().to_pylist()
        elif file.suffix == ".jsonl":
            with file.open(encoding="utf-8-sig") as lines:
                for number, line in enumerate(lines, 1):
                    where = f"{file}, line {number},"
                    if line.strip():
                        yield json.loads(line)
        elif file.suffix == ".json":
            content = json.loads(file.read_text(encoding="utf-8-sig"))
            if not isinstance(content, list):
                raise DataError(
                    f"{file} holds {type(content).__name__}, not a list of questions",
                    remedy="write a list of rows, or a row per line in a .jsonl file",
                )
            yield from content
        else:
            raise DataError(f"{file} is none of .jsonl, .json and .parquet", remedy="convert the file to one of them")
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not text in UTF-8: {error.reason}", remedy="convert the file to UTF-8") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {where}: {str(error)[:160]}", remedy="give the path of a whole file") from error


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
    label = _label(row[columns.answer], options, columns.first_index)
    if label is None:
        return None, "with an answer outside its options"
    if len(options) > len(LABELS):
        return None, f"with more than {len(LABELS)} options"
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
        # Beyond Z there are no labels; such a row is left out.
        pairs = [(LABELS[index] if index < len(LABELS) else str(index), text) for index, text in enumerate(value)]
    else:
        pairs = []
    return tuple(Option(label=label, text=_text(text)) for label, text in pairs)


def _number(answer: object) -> int | None:
    """A whole number; Parquet and pandas write 1.0 for 1 where other rows have none."""
    if isinstance(answer, float) and answer.is_integer():
        return int(answer)
    return answer if isinstance(answer, int) and not isinstance(answer, bool) else None


def _label(answer: object, options: tuple[Option, ...], first: int) -> str | None:
    """The label that ``answer`` names: a label, else (for a number) an index from ``first`` on, else a text."""
    number = _number(answer)
    text = _text(answer if number is None else number)
    if any(option.label == text for option in options):
        return text
    if number is not None:
        return options[number - first].label if first <= number < len(options) + first else None
    return next((option.label for option in options if option.text == text), None)
