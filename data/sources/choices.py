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
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn, Self

from data.config import ChoicesConfig, ColumnsConfig
from data.errors import DataError
from data.records import Option, Provenance, Question
from data.sources.hpo import SPLITS, QuestionSplits
from data.storage import Storage

LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ENDINGS = (".jsonl", ".json", ".parquet")
TOO_LONG = "longer than max_chars"
CONTRADICTED = "that contradict each other"
Row = Mapping[str, Any]
Pairs = list[tuple[str, Any]]


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
            remedy="ask for fewer train_questions, held_out_questions or warm_up_questions"
            + (", or raise max_chars" if left_out[TOO_LONG] else ""),
        )
    ends = [split for split, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
    return QuestionSplits.of((replace(q, split=s) for q, s in zip(questions, ends, strict=False)), left_out=why)


def questions_of(rows: Iterable[Row], config: ChoicesConfig) -> tuple[list[Question], Counter[str]]:
    """Questions in the order of ``rows``, each text once, and how many rows were left out for which reason.

    Raises:
        DataError: a row lacks a column: then all do; or indices seem to count from another number than is said.
    """
    rows = list(rows)
    _check_columns(rows, config)
    reading = _Reading.of(rows, config)
    asked: dict[str, Question] = {}
    contradicted: set[str] = set()
    left_out: Counter[str] = Counter()
    for number, row in enumerate(rows):
        question, reason = _question(row, number, config, reading)
        key = _key(question) if question else ""
        size = len(question.stem) + len(question.context) if question else 0
        if question and size + sum(len(option.text) for option in question.options) > config.max_chars > 0:
            reason = TOO_LONG
        elif question and key in contradicted:
            reason = CONTRADICTED
        elif question and key in asked:
            reason = "repeated"
            if _same(asked[key].answer_text) != _same(question.answer_text):
                reason = CONTRADICTED  # nobody knows which is right: neither is asked
                left_out[reason] += 1
                contradicted.add(key)
                del asked[key]
        elif question:
            asked[key] = question
            continue
        left_out[reason] += 1
    return list(asked.values()), left_out


def _check_columns(rows: Sequence[Row], config: ChoicesConfig) -> None:
    """Raises `DataError` when a row lacks a column, or all lack a context that was named."""
    columns = config.columns
    wanted = [columns.question, columns.options, columns.answer]
    for number, row in enumerate(rows):
        missing = [name for name in wanted if not isinstance(row, Mapping) or name not in row]
        if missing:
            _refuse_columns(config, f"row {number} of {config.path}", missing, row)
    if rows and columns.context != ColumnsConfig().context and not any(columns.context in row for row in rows):
        _refuse_columns(config, config.path, [columns.context], rows[0])


def _refuse_columns(config: ChoicesConfig, where: str, missing: list[str], row: object) -> NoReturn:
    there = sorted(map(str, row))[:20] if isinstance(row, Mapping) else type(row).__name__
    raise DataError(
        f"{where} lacks {missing}; it has {there}",
        remedy="name the columns of your file in data.questions.choices.columns",
    )


def _key(question: Question) -> str:
    """One question in two spellings has one key."""
    return _same("\n".join([question.stem, question.context, *sorted(option.text for option in question.options)]))


def _same(text: str) -> str:
    return " ".join(text.split()).casefold()


@dataclass(frozen=True)
class _Reading:
    """What a number in the answer column means, decided once for a file: most of its rows must fit.

    ``kind`` is "label", "text" or "index". One file that is read in two ways would be taught wrong in part.
    """

    kind: str
    first: int

    @classmethod
    def of(cls, rows: Sequence[Row], config: ChoicesConfig) -> Self:
        """Raises `DataError` when more indices fit if they count from the other number."""
        columns = config.columns
        answers = [(row[columns.answer], row) for row in rows]
        numbered = [
            (answer, number, _options(row[columns.options]))
            for answer, row in answers
            if (number := _number(answer)) is not None
        ]
        first, other = columns.first_index, 1 - columns.first_index
        fits = {
            "label": sum(str(number) in dict(pairs) for _, number, pairs in numbered),
            "text": sum(str(number) in [_text(text) for _, text in pairs] for _, number, pairs in numbered),
            "index": sum(first <= number < len(pairs) + first for _, number, pairs in numbered),
        }
        shifted = sum(other <= number < len(pairs) + other for _, number, pairs in numbered)
        written = sum(isinstance(answer, str) for answer, _, _ in numbered)
        order = ("label", "text", "index") if 2 * written > len(numbered) else ("label", "index", "text")
        kind = max(order, key=lambda kind: fits[kind])
        if kind == "index" and shifted > max(1, fits["index"]):
            raise DataError(
                f"the answers of {config.path} seem to be numbered from {other}: then {shifted:,} rows have the option "
                f"that they name, counted from {first} only {fits['index']:,}",
                remedy=f"set data.questions.choices.columns.first_index to {other}",
            )
        return cls(kind, first)

    def label(self, answer: object, pairs: Pairs) -> str | None:
        """The label that ``answer`` names: a label or an option's whole text, or a number as the file means it."""
        number = _number(answer)
        text = _text(answer) if number is None else str(number)
        if number is not None and self.kind == "index":
            at = number - self.first
            return pairs[at][0] if 0 <= at < len(pairs) and pairs[at][1] is not None else None
        if (number is None or self.kind == "label") and text in dict(pairs):
            return text
        return None if number is not None and self.kind == "label" else _labelled(text, pairs)


def _labelled(text: str, pairs: Pairs) -> str | None:
    return next((label for label, option in pairs if _text(option) == text), None)


def is_file(path: str) -> bool:
    """True for a file or URI, there or not; what has no ending of one and is no path here is a name of the hub."""
    named = "://" in path or path.startswith(("/", ".", "~")) or _ending(path) in ENDINGS
    return named or Path(path).expanduser().exists()


def check_ending(path: str) -> None:
    """Raises `DataError` for a file that is read in no way here."""
    if _ending(path) not in ENDINGS:
        raise DataError(f"{path} is none of .jsonl, .json and .parquet", remedy="convert the file to one of them")


def _file_name(path: str) -> PurePosixPath:
    """Without the options that a URI may have behind it (``s3://bucket/set.jsonl?region=eu-west-1``)."""
    return PurePosixPath(path.partition("?")[0] if "://" in path else path)


def _ending(path: str) -> str:
    return _file_name(path).suffix.lower()


def rows_of(config: ChoicesConfig) -> Iterator[Row]:
    """The rows of a ``.jsonl``, ``.json`` (a list) or ``.parquet`` file by path or URI, or of a data set on the hub.

    Raises:
        DataError: there is no such file, it is damaged, or the hub does not give the set.
    """
    if not is_file(config.path):
        yield from _hub_rows(config)
        return
    file = Storage.open(config.path, setting="data.questions.choices.path")
    check_ending(config.path)
    ending, where = _ending(config.path), file.uri
    try:
        with file.fs.open_input_file(file.root) as stream:
            content = stream.read_buffer()
        if ending == ".parquet":
            import pyarrow.parquet as pq

            yield from pq.ParquetFile(content).read().to_pylist(maps_as_pydicts="strict")
        elif ending == ".jsonl":
            for number, line in enumerate(content.to_pybytes().splitlines(), 1):
                where = f"line {number} of {file.uri}"
                if line.strip():
                    yield json.loads(line.decode("utf-8-sig"))
        else:
            rows = json.loads(content.to_pybytes().decode("utf-8-sig"))
            if not isinstance(rows, list):
                raise DataError(
                    f"{file.uri} holds {type(rows).__name__}, not a list of questions",
                    remedy="write a list of rows, or a row per line in a .jsonl file",
                )
            yield from rows
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


def _question(row: Row, number: int, config: ChoicesConfig, reading: _Reading) -> tuple[Question | None, str]:
    """The question of a row, or None and why there is none."""
    columns = config.columns
    pairs = _options(row[columns.options])
    label = reading.label(row[columns.answer], pairs)
    # A Parquet file writes null where a question lacks an option that another has.
    options = tuple(Option(label=name, text=_text(text)) for name, text in pairs if text is not None)
    if label is None:
        return None, "with an answer outside its options"
    if len(options) > len(LABELS):
        return None, f"with more than {len(LABELS)} options"
    if len({_same(option.text) for option in options}) < len(options):
        return None, "with repeated options"
    context = _text(row.get(columns.context))
    if not context and row.get(columns.context):
        return None, "with a context that is no text"
    name = config.name or _file_name(config.path).stem
    try:
        question = Question(
            source=name,
            language=config.language,
            stem=_text(row[columns.question]),
            context=context,
            options=options,
            answer_label=label,
            provenance=Provenance(dataset=name, row=str(number)),
        )
        "".join([question.stem, question.context, *(option.text for option in options)]).encode()
    except DataError:
        return None, "without a text or with empty options"
    except UnicodeEncodeError:
        return None, "with half a character"
    return question, ""


def _text(value: object) -> str:
    """A text or a number, or sentences joined by a space; nothing for null and for what is no text."""
    if isinstance(value, list | tuple):
        parts = [_text(part) for part in value]
        return " ".join(parts) if all(parts) else ""
    if value is None or isinstance(value, Mapping | bytes) or value != value:  # NaN
        return ""
    return str(value).strip()


def _options(value: object) -> Pairs:
    """(label, text) in their order; the text of an option that is not there is None."""
    if isinstance(value, Mapping):
        return [(str(label).strip(), text) for label, text in value.items()]
    if isinstance(value, list | tuple):
        # Beyond Z there are no labels; such a row is left out.
        return [
            (LABELS[at] if at < len(LABELS) else str(at), "" if text is None else text) for at, text in enumerate(value)
        ]
    return []


def _number(answer: object) -> int | None:
    """A whole number, also in digits; Parquet and pandas write 1.0 for 1 where other rows have none."""
    if isinstance(answer, float) and answer.is_integer():
        return int(answer)
    if isinstance(answer, str) and re.fullmatch(r"[0-9]{1,3}", answer.strip()):
        return int(answer)
    return answer if isinstance(answer, int) and not isinstance(answer, bool) else None
