"""What is said of a CSV file before Spark reads it."""

import bz2
import csv
import gzip
import hashlib
import io
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lumos.aggregate import csv_text
from lumos.verbs import BadInput

LOCAL = pafs.LocalFileSystem()
# Python's writer does not quote a lone carriage return.
PIECES = [*'ab ",;é日', "\n", "\r\n"]
VALUES = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def line_end(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return csv_text.line_end(LOCAL, str(path))


@pytest.fixture(params=["at once", "byte by byte"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file, read in large parts, and in parts that cut everything."""
    if request.param == "byte by byte":
        monkeypatch.setattr(csv_text, "_CHUNK", 1)
    return tmp_path / "a.csv"


@pytest.mark.parametrize(
    ("content", "end"),
    [
        ("a,b\n1,2\n", ""),
        ("a,b\r\n1,2", ""),
        ('a,b\n"1","x, ""y"""\n', ""),
        ('a,b\n1,5" pipe\n2,3" nail\n', ""),  # a quote inside a value that none encloses
        ('a,b\n1,"x\ny"\n2,z\n', "\n"),
        ('a,b\r\n1,"x\ny"\r\n', "\r\n"),
        ('a,b\r1,"x\ny"\r', "\r"),
        ('\ufeff"a",b\n1,"x\r\ny"\n', "\n"),
        ('\ufeff"a",b\n1,2\n', ""),
        # Both lines have two quotes, and are one record.
        ('a,b,c\n1,5" pipe,"please\n2,thanks",5" pipe\n', "\n"),
        ("", ""),
    ],
)
def test_line_breaks_inside_quotes_are_found_with_the_end_of_the_records(
    path: Path, content: str, end: str
) -> None:
    assert line_end(path, content) == end


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a,b\n1,caf\xe9\n", "not text in UTF-8 at byte 9, line 2"),
        (b"a,b\n1,caf\xc3", "not text in UTF-8 at byte 9, line 2"),
        (b"a,b\n" + "1,é日\n".encode() * 3 + b"\xff", "at byte 28, line 5"),
        (b"a,b\n1,\0\n", "not text in UTF-8 at byte 6, line 2"),
        ("a,b\n1,2\n".encode("utf-16"), "at byte 0, line 1 .it looks like UTF-16"),
        (b'a,b\n1,2\n3,"never closed\n4,5\n', r"row 3 \(line 3\) is not a record"),
        (b'a,b\n1,"x\ny"\n3,"x"y"\n', r"row 3 \(line 4\) is not a record"),
        (b'a,b\n1,"x\ny"\r\n2,3\n', "row 2 ends its line in another way"),
    ],
)
def test_what_is_not_csv_in_utf_8_is_refused_with_its_place_and_without_its_text(
    path: Path, content: bytes, said: str
) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        line_end(path, content)
    assert "caf" not in str(caught.value)
    assert "never" not in str(caught.value)


@same_folder
@given(
    rows=st.lists(st.lists(VALUES, min_size=2, max_size=2), min_size=1, max_size=6),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    chunk=st.integers(1, 40),
)
def test_what_a_csv_writer_writes_is_understood_as_it_was_meant(
    tmp_path: Path, rows: list[list[str]], end: str, quoting: int, chunk: int
) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator=end, quoting=quoting).writerows([["a", "b"], *rows])  # type: ignore[arg-type]
    has_breaks = any("\n" in value or "\r" in value for row in rows for value in row)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(csv_text, "_CHUNK", chunk)
        assert line_end(tmp_path / "a.csv", text.getvalue()) == (end if has_breaks else "")


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_a_compressed_file_is_looked_into_and_a_damaged_one_is_refused(
    tmp_path: Path, ending: str, pack: object
) -> None:
    whole = pack(b"a,b\n" + b"1,2\n" * 5000)  # type: ignore[operator]
    path = tmp_path / f"a.csv{ending}"
    assert line_end(path, whole) == ""
    assert csv_text.header(LOCAL, str(path)) == ("a", "b")
    with pytest.raises(BadInput, match="cannot be decompressed"):
        line_end(path, whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="compressed in a way that is not supported"):
        csv_text.header(LOCAL, str(tmp_path / "a.csv.zst"))


def test_the_row_of_a_value_is_found_by_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('\ufeffa,b\n1,"x\ny"\n\n2,z\n3\n')

    def row(column: int | None, value: str) -> int | None:
        digest = hashlib.sha256(value.encode()).hexdigest()
        return csv_text.find_record(LOCAL, str(path), column, digest)

    assert (row(1, "x\ny"), row(1, "z"), row(0, "a"), row(None, "")) == (2, 3, None, 4)
