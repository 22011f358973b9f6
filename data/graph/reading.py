"""Tables of text, line by line: a missing, cut or changed file is named with its line."""

from __future__ import annotations

import csv
import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from data.errors import DataError
from data.graph.schema import curie, is_curie


def open_text(path: Path) -> IO[str]:
    """Open a text file, packed with gzip or not.

    Raises:
        DataError: there is no such file.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing", remedy="see docs/graph.md for where the source publishes it")
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def find_file(folder: Path, *names: str) -> Path:
    """The first of ``names`` in a folder, plain or with .gz; ``folder`` may also be the file itself.

    Raises:
        DataError: none is there.
    """
    if folder.is_file():
        return folder
    for name in names:
        for candidate in (folder / name, folder / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    raise DataError(
        f"{' or '.join(names)} is missing in {folder}", remedy="see docs/graph.md for where the source publishes it"
    )


def fail(path: Path | str, line: int, problem: str, remedy: str = "") -> DataError:
    """An error that names a file and a line."""
    name = path.name if isinstance(path, Path) else path
    return DataError(f"{name} line {line}: {problem}", remedy=remedy or "download the file again, whole and unchanged")


def identifier_at(path: Path, line: int, text: str, prefix: str = "") -> str:
    """`data.graph.schema.curie`; what is no identifier is named with file and line."""
    try:
        found = curie(text, prefix)
    except DataError as error:
        raise fail(path, line, error.problem, error.remedy) from None
    if not is_curie(found):
        raise fail(path, line, f"{text!r} is no identifier", "write PREFIX:LOCAL, for instance HP:0001166")
    return found


def name_at(path: Path, line: int, identifier: str, text: str) -> str:
    """The name of an entity; an empty one is refused with file and line."""
    if not text.strip():
        raise fail(path, line, f"{identifier} has no name", "give it one")
    return text


def rows(
    path: Path,
    header: Sequence[str] | None,
    *,
    delimiter: str = "\t",
    quoted: bool = False,
    comment: str = "",
    ends_with_newline: bool = True,
) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every row below the header.

    Args:
        header: the columns that must be there, in order; None when the file has no header.
        quoted: cells may stand in double quotes, as in CSV.
        ends_with_newline: the publisher's file does, so one that does not was cut.

    Raises:
        DataError: the file is missing, cut or no text, has another header, or a row with another number of cells.
    """
    with open_text(path) as file:
        try:
            yield from _rows(path, file, header, delimiter, quoted, comment)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{path.name} is cut off or damaged ({error})", remedy="download it again") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{path.name} is no UTF-8 text ({error})", remedy="download it again") from None
    if ends_with_newline and path.suffix != ".gz" and not _ends_with_newline(path):
        raise DataError(f"{path.name} ends in the middle of its last line", remedy="download it again, whole")


def _rows(
    path: Path, file: IO[str], header: Sequence[str] | None, delimiter: str, quoted: bool, comment: str
) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
    width = 0
    try:
        for cells in reader:
            if not cells or (comment and cells[0].startswith(comment)):
                continue
            if width == 0:
                width = len(cells)
                if header is not None:
                    _check_header(path, reader.line_num, cells, header)
                    continue
            if len(cells) != width:
                raise fail(path, reader.line_num, f"{len(cells)} cells instead of {width}")
            yield reader.line_num, cells
    except csv.Error as error:
        raise fail(path, reader.line_num, str(error)) from None
    if width == 0:
        raise DataError(f"{path.name} is empty", remedy="download it again")


def _check_header(path: Path, line: int, cells: list[str], header: Sequence[str]) -> None:
    found = [cell.lstrip("\ufeff?#").strip() for cell in cells]
    if found[: len(header)] != list(header):
        raise fail(
            path, line, f"the header is {found[: len(header) + 2]}", f"the columns must begin with {list(header)}"
        )


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) in (b"\n", b"\r")
