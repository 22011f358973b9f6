"""The files of `fleming score`: questions and completions in, scores out, JSON lines or Parquet.

What cannot be read is named with its row. The output has its name only when it is whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from data.errors import ConfigError, DataError

SLICE_ITEMS = 4096
"""Completions that are read and judged at once; it bounds the memory."""
SUFFIXES = (".jsonl", ".ndjson", ".parquet")

Row = Mapping[str, Any]
_CONTENT_HASH = re.compile("[0-9a-f]{16}")


def check_paths(questions: Path, completions: Path, out: Path | None) -> None:
    """See before any work that the files can be what they shall be.

    Raises:
        DataError: another ending, or no place for the output.
        ConfigError: the output would replace an input.
    """
    for path in (questions, completions, *([out] if out else [])):
        if path.suffix not in SUFFIXES:
            raise DataError(f"{path} is neither JSON lines nor Parquet", remedy=f"use one of the endings {SUFFIXES}")
    if out is None:
        return
    for name, path in (("--questions", questions), ("--completions", completions)):
        if path.resolve() == out.resolve() or (path.exists() and out.exists() and path.samefile(out)):
            raise ConfigError(f"--out {out} is the file of {name}", remedy="name another file for the scores")
    if not out.parent.is_dir():
        raise DataError(f"the folder {out.parent} of --out does not exist", remedy="make it, or name another")
    if out.is_dir():
        raise DataError(f"--out {out} is a folder", remedy="name a file in it")


def read_questions(path: Path) -> list[tuple[str, Any]]:
    """Questions, each with the id that its row gives it ("" for none), from JSON lines or Parquet.

    The fields are those of `data.records.Question`; defaults may be left out, and a null of Parquet is left out. An
    id may be anybody's own, a text or a number; one of 16 hex digits must be the hash of the content.

    Raises:
        DataError: the file is missing, or a row is no question.
    """
    if path.suffix != ".parquet":
        rows = enumerate(_json_lines(path), start=1)
    else:
        filled = ({k: v for k, v in row.items() if v is not None} for rows in _parquet_slices(path) for row in rows)
        rows = enumerate(filled, start=1)
    return [_question(row, path, index) for index, row in rows]


def question_key(value: Any) -> str | None:
    """An id as questions and completions are joined by it; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value)


def _question(row: Row, path: Path, index: int) -> tuple[str, Any]:
    from data.records import Option, Provenance, Question

    filled: dict[str, Any] = {"source": "", "language": "", "answer_label": "", **row}
    stored = filled.pop("id", None)
    where = f"row {index} of {path}"
    options = _typed(filled.get("options", []), list, "options", where)
    given = _texts_of(filled.get("provenance", {}), "provenance", where, lists=("path", "masked"))
    kept = {name: value for name, value in filled.items() if name not in ("options", "provenance")}
    fields = _texts_of(kept, "", where, lists=("accepted_answers", "tags", "answer_labels"))
    try:
        fields["options"] = tuple(
            Option(**_texts_of(option, f"options.{number}", where)) for number, option in enumerate(options)
        )
        question = Question(**fields, provenance=Provenance(**given))
    except TypeError as error:
        remedy = "use the fields of Question in data/records.py; source, stem, options and answer_label will do"
        raise DataError(f"{where} is no question ({error})", remedy=remedy) from None
    except DataError as error:
        raise DataError(f"{where}: {error.problem}", remedy=error.remedy) from None
    own = "" if stored is None else question_key(stored)
    if own is None:
        raise DataError(f"id = {stored!r:.60} in {where} is neither text nor number", remedy="make it one")
    if _CONTENT_HASH.fullmatch(own) and own != question.id:
        raise DataError(
            f"{where} has id {own!r}, and its content {question.id!r}",
            remedy="leave the id out, or take one that does not look like the hash of a content",
        )
    return own, question


def _texts_of(value: Any, name: str, where: str, lists: Sequence[str] = ()) -> dict[str, Any]:
    """An object whose fields are all texts, but for ``lists``, which are lists of texts and become tuples."""
    found: dict[str, Any] = {}
    for key, said in _typed(value, dict, name, where).items():
        field_name = f"{name}.{key}" if name else key
        if key in lists:  # a text is a sequence of texts too: each of its letters would be an accepted answer
            elements = enumerate(_typed(said, list, field_name, where))
            found[key] = tuple(_typed(each, str, f"{field_name}.{number}", where) for number, each in elements)
        else:
            found[key] = _typed(said, str, field_name, where)
    return found


def _typed(value: Any, kind: type, name: str, where: str) -> Any:
    if isinstance(value, str) and not _is_unicode(value):
        raise DataError(f"{name} = {value!r:.60} in {where} has a lone surrogate", remedy="write valid Unicode")
    if not isinstance(value, kind):
        what = {"str": "a text", "list": "a list", "dict": "an object"}[kind.__name__]
        raise DataError(f"{name} = {value!r:.60} in {where} is not {what}", remedy=f"make it {what}, or leave it out")
    return value


def _is_unicode(text: str) -> bool:
    with suppress(UnicodeEncodeError):
        text.encode()
        return True
    return False


def slices(path: Path) -> Iterator[list[Row]]:
    """The rows of a file, `SLICE_ITEMS` at a time.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    if path.suffix == ".parquet":
        yield from _parquet_slices(path)
        return
    kept: list[Row] = []
    for row in _json_lines(path):
        kept.append(row)
        if len(kept) == SLICE_ITEMS:
            yield kept
            kept = []
    if kept:
        yield kept


def _parquet_slices(path: Path) -> Iterator[list[Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=SLICE_ITEMS):
                yield batch.to_pylist()
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({str(error)[:120]})", remedy="give a Parquet file that exists"
        ) from None


def _json_lines(path: Path) -> Iterator[Row]:
    try:
        # Only "\n" ends a line: JSON texts may hold U+2028 and its like.
        with path.open(encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _object(line, path, number)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error})", remedy="give a file of JSON lines in UTF-8") from None


def _object(line: str, path: Path, number: int) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"line {number} of {path} is no JSON ({error})", remedy="write one object per line") from None
    if not isinstance(row, dict):
        raise DataError(f"line {number} of {path} is no JSON object", remedy="write one object per line")
    return cast(Row, row)


class Writer:
    """The output file, slice by slice; a context that leaves nothing behind when it ends with an error."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._part = path.with_name(path.name + ".part") if path else None
        self._file: Any = None

    def __enter__(self) -> Writer:
        if self._part is not None:
            with _writing(self._part):
                self._file = (
                    _ParquetFile(self._part) if self._part.stem.endswith(".parquet") else _LinesFile(self._part)
                )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._part is None or self._path is None:
            return
        try:
            with _writing(self._part):
                self._file.close()
                if kind is None:
                    self._part.replace(self._path)
        finally:
            self._part.unlink(missing_ok=True)

    def write(self, rows: Sequence[Row]) -> None:
        """Add rows.

        Raises:
            DataError: the place takes no more.
        """
        if self._part is not None:
            with _writing(self._part):
                self._file.write(rows)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error})", remedy="name another --out") from None


class _LinesFile:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")

    def write(self, rows: Sequence[Row]) -> None:
        self._file.writelines(json.dumps(row, ensure_ascii=True) + "\n" for row in rows)

    def close(self) -> None:
        self._file.close()


class _ParquetFile:
    """Parquet texts are UTF-8, so a lone surrogate of an answer is written as the escape that JSON would have."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = {"sample_index": pa.int64(), **dict.fromkeys(("reward", "correct", "format"), pa.float64())}
        names = ("question_id", "sample_index", "reward", "correct", "format", "answer", "verifier_version")
        self._schema = pa.schema([(name, kinds.get(name, pa.string())) for name in (*names, "reason", "failure")])
        self._file = pq.ParquetWriter(path, self._schema)

    def write(self, rows: Sequence[Row]) -> None:
        import pyarrow as pa

        clean = [{name: _escaped(value) for name, value in row.items()} for row in rows]
        self._file.write_table(pa.Table.from_pylist(clean, schema=self._schema))

    def close(self) -> None:
        self._file.close()


def _escaped(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
