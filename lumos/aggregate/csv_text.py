"""CSV by the rules of RFC 4180, in UTF-8: what Spark would read without a complaint, and wrongly.

Spark replaces bytes that are not UTF-8, and reads a line as a record unless it is told not to.
So each file is looked through before it is read. The quick look costs a second for each
gigabyte or so; a file with a quote that is not where one belongs, or with line breaks inside
quotes, is parsed record by record, which takes about ten times as long.
"""

import codecs
import csv
import hashlib
import io
import re
from collections.abc import Iterator

import numpy as np
import pyarrow.fs as pafs

from lumos.verbs import BadInput

_CHUNK = 4 << 20
_QUOTE, _COMMA, _LF, _CR = 34, 44, 10, 13
_BEFORE_A_VALUE = np.array([_COMMA, _LF, _CR, _QUOTE], np.uint8)
# Those that Arrow and Spark both know by these endings, and those that only one of them does.
_ELSEWHERE = (".zst", ".lz4", ".snappy", ".deflate", ".br", ".zip", ".xz", ".tar", ".tgz", ".7z")
# What is not a text in UTF-8 is most often this.
_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class Lines:
    """Lines of a text with their ends, and how the last one of them ended."""

    def __init__(self, text: io.TextIOBase) -> None:
        """Read from ``text``, which must not translate line ends."""
        self._text = text
        self.end = ""

    def __iter__(self) -> Iterator[str]:
        """Each line."""
        for line in self._text:
            self.end = line[len(line.rstrip("\r\n")) :]
            yield line


def header(system: pafs.FileSystem, path: str) -> tuple[str, ...]:
    """The names in the first line that is not empty.

    Raises:
        BadInput: The file is empty, or not text in UTF-8.
    """
    if path.lower().endswith(_ELSEWHERE):
        raise BadInput("is compressed in a way that is not supported: expected gzip, bzip2 or none")
    try:
        with system.open_input_stream(path, buffer_size=1 << 16) as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            return next((tuple(row) for row in csv.reader(text, strict=True) if row), ())
    except UnicodeDecodeError as error:
        raise BadInput(_not_utf8(system, path)) from error
    except csv.Error as error:
        raise BadInput(f"has a header that is not CSV: {error}") from error
    except OSError as error:
        raise _damaged(error) from error


def line_end(system: pafs.FileSystem, path: str) -> str:
    """How the records of a file end where some hold line breaks; empty where none does.

    Raises:
        BadInput: Not UTF-8, or quotes that do not enclose a value; says where.
    """
    try:
        if _is_a_line_a_record(system, path):
            return ""
        return _line_end(system, path)
    except OSError as error:
        raise _damaged(error) from error


def find_record(system: pafs.FileSystem, path: str, column: int | None, digest: str) -> int | None:
    """The row of the first record whose value has this SHA-256; the header is row 1.

    Args:
        system: Where the file is.
        path: The file.
        column: Whose value; ``None`` for the first record that has not as many as the header.
        digest: In hexadecimal digits.
    """
    with system.open_input_stream(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        width = 0
        for number, row in enumerate((row for row in csv.reader(text) if row), start=1):
            width = width or len(row)
            if column is None:
                is_it = len(row) != width
            else:
                own = row[column] if column < len(row) else ""
                is_it = number > 1 and hashlib.sha256(own.encode()).hexdigest() == digest
            if is_it:
                return number
    return None


def _is_a_line_a_record(system: pafs.FileSystem, path: str) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    num_quotes, last, is_plain = 0, _LF, True
    with system.open_input_stream(path) as file:
        while chunk := file.read(_CHUNK):
            _check_text(system, path, decoder, chunk)
            if is_plain and _QUOTE in chunk:
                is_plain = _are_quotes_plain(chunk, num_quotes, last)
                num_quotes += chunk.count(b'"')
            elif is_plain and num_quotes % 2:
                is_plain = _LF not in chunk and _CR not in chunk
            last = chunk[-1]
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise BadInput(_not_utf8(system, path)) from error
    return is_plain and num_quotes % 2 == 0


def _check_text(
    system: pafs.FileSystem, path: str, decoder: codecs.IncrementalDecoder, chunk: bytes
) -> None:
    try:
        is_text = b"\0" not in chunk
        if not chunk.isascii() or decoder.getstate()[0]:
            decoder.decode(chunk)
    except UnicodeDecodeError:
        is_text = False
    if not is_text:
        raise BadInput(_not_utf8(system, path))


def _are_quotes_plain(chunk: bytes, num_quotes: int, last: int) -> bool:
    """Whether values open their quotes at their first character, and close them in their line."""
    text = np.frombuffer(chunk, np.uint8)
    quotes = np.flatnonzero(text == _QUOTE)
    ends = np.flatnonzero((text == _LF) | (text == _CR))
    if np.any((num_quotes + np.searchsorted(quotes, ends)) & 1):
        return False
    opening = quotes[num_quotes & 1 :: 2]
    before = np.where(opening > 0, text[opening - 1], last)
    return bool(np.all(np.isin(before, _BEFORE_A_VALUE)))


def _line_end(system: pafs.FileSystem, path: str) -> str:
    ends: dict[str, int] = {}
    has_breaks, row, before = False, 0, 0
    with system.open_input_stream(path) as file:
        lines = Lines(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))
        records = csv.reader(iter(lines), strict=True)
        try:
            for row, _ in enumerate(records, start=1):
                has_breaks |= records.line_num - before > 1
                before = records.line_num
                if lines.end:
                    ends.setdefault(lines.end, row)
        except csv.Error as error:
            msg = (
                f"row {row + 1} (line {before + 1}) is not a record by the rules of CSV "
                f"(RFC 4180): {error}. Enclose a value with line breaks or quotes in quotes, and "
                "write a quote inside it twice"
            )
            raise BadInput(msg) from error
    if has_breaks and len(ends) > 1:
        msg = (
            f"row {max(ends.values())} ends its line in another way than the rows before it, and "
            "values hold line breaks, so it is not certain where records end. Write all lines "
            "with the same end"
        )
        raise BadInput(msg)
    return next(iter(ends), "\n") if has_breaks else ""


def _not_utf8(system: pafs.FileSystem, path: str) -> str:
    """Where a file stops being text in UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, line = 0, 1
    with system.open_input_stream(path) as file:
        start = file.read(2)
    with system.open_input_stream(path) as file:
        while True:
            chunk = file.read(_CHUNK)
            held = len(decoder.getstate()[0])
            bad = [at for at in [chunk.find(b"\0")] if at >= 0]
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                bad.append(error.start - held)
            line += chunk.count(b"\n", 0, max(min(bad), 0) if bad else None)
            offset += min(bad) if bad else len(chunk)
            if bad or not chunk:
                break
    found = f" (it looks like {_MARKS[start]})" if start in _MARKS else ""
    return (
        f"is not text in UTF-8 at byte {offset}, line {line}{found}. Convert it, or land it again"
    )


def _damaged(error: OSError) -> Exception:
    """Bad input where the compressed text is at fault; the error itself where the storage is."""
    if re.search(r"zlib|bz2|ompressed", str(error)):
        return BadInput("cannot be decompressed: it is damaged, or still being written")
    return error
