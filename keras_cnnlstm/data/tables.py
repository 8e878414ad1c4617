"""Tables as people's spreadsheets write them: CSV, TSV and JSON lines, in any usual encoding."""

import csv
import json
import re
from pathlib import Path
from typing import Any

from keras_cnnlstm.data.frames import what_is_at
from keras_cnnlstm.utils.validation import short_repr

_LARGEST = 100_000_000  # bytes of a table
_UTF16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks


def read_table(
    path: Path, expected: str, *, raw: bool = False
) -> tuple[list[str], list[tuple[int, Any]], bool]:
    """The header of a table, its rows with their numbers, and whether a comma separates columns.

    Rows are counted as a spreadsheet counts them: the header is row 1. A row is a dict by the names
    of the header as they are spelled, or text that says what is wrong with it; empty ones are left
    out.

    Args:
        path: the file; JSON lines if it ends in `.jsonl`, else separated columns.
        expected: what it should be, for errors: "a CSV file".
        raw: whether bytes that are not UTF-8 are kept as Python keeps those in the names of files;
            else the text is then Windows-1252.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no text, too large, or empty.
    """
    if not path.is_file():
        error = ValueError if path.exists() else FileNotFoundError
        raise error(f"{path}: expected {expected}; found {what_is_at(path)}.")
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path}: expected {expected} of at most {_LARGEST:,} bytes.")
    content = path.read_bytes()
    if raw and content[:2] not in _UTF16:
        text = content.decode("utf-8-sig", errors="surrogateescape")
    else:
        text = _decoded(path, content)
    if path.suffix.lower() == ".jsonl":
        return *_json_lines(path, text), True
    return _separated(path, text, expected)


def read_cells(path: Path, column: str) -> list[str]:
    """The cells of one column that are not empty, each once, in their order.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no table with such a column, or a row of it cannot be read.
    """
    expected = f"a table with the column {column}"
    header, rows, _ = read_table(path, expected)
    spelled = {str(name).strip().casefold(): name for name in header}
    if column not in spelled:
        raise ValueError(f"{path}: expected {expected}; found {short_repr(', '.join(header))}.")
    found = []
    for number, row in rows:
        if isinstance(row, str):
            raise ValueError(f"{path}: row {number}: {row}.")
        found.append(str(row.get(spelled[column]) or "").strip())
    return list(dict.fromkeys(filter(None, found)))


def _decoded(path, content) -> str:
    """The text, in UTF-8, UTF-16 or Windows-1252."""
    encodings = ["utf-8-sig", "cp1252"]
    if content[:2] in _UTF16:
        encodings = ["utf-16"]
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise ValueError(
        f"{path}: expected text; received bytes that are none. Save it as CSV in UTF-8."
    )


def _separated(path, text, expected):
    lines = text.splitlines(keepends=True)
    first = 1
    separator = None
    if lines and (match := re.fullmatch(r"sep=(.)\s*", lines[0])):  # as Excel writes
        separator, lines, first = match[1], lines[1:], 2
    if separator is None:
        header = next((line for line in lines if line.strip()), "")
        separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
    rows: list[tuple[int, Any]] = []
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True)
    header_cells: list[str] | None = None
    number = first - 1
    while True:
        number += 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            rows.append((number, f"cannot be read as CSV: {error}"))
            break
        if cells is None:
            break
        if not any(cell.strip() for cell in cells):
            continue
        if header_cells is None:
            header_cells = cells
        elif len(cells) > len(header_cells) and any(
            cell.strip() for cell in cells[len(header_cells) :]
        ):
            rows.append((number, f"has {len(cells)} cells, the header {len(header_cells)}"))
        else:
            rows.append((number, dict(zip(header_cells, cells, strict=False))))
    if header_cells is None:
        raise ValueError(f"{path}: expected {expected} with a header; there are no lines.")
    return header_cells, rows, separator == ","


def _json_lines(path, text):
    rows: list[tuple[int, Any]] = []
    header: dict[str, None] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            rows.append((number, f"cannot be read as JSON: {error}"))
            continue
        if not isinstance(row, dict):
            rows.append((number, f"must be a JSON object; received {short_repr(row)}"))
            continue
        header.update(dict.fromkeys(row))
        rows.append((number, row))
    if not header:
        wrong = f"row {rows[0][0]} {rows[0][1]}" if rows else "the table is empty"
        raise ValueError(f"{path}: expected JSON objects with `clip`, one a line; {wrong}.")
    return list(header), rows
