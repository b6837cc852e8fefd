"""Raw tables opened by Spark: the files that were checked, literally, and their values as declared.

What Spark itself finds wrong while it reads is turned into a sentence with the file, the column
and the row, as its own says none of them in its first line and may quote a value.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from urllib.parse import unquote

from py4j.java_gateway import JavaObject
from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, DataFrameReader, SparkSession
from pyspark.sql import functions as F

from lumos.accio.storage import filesystem_of
from lumos.aggregate import csv_text, kinds
from lumos.aggregate.facts import TEXT, UNREADABLE, Days
from lumos.aggregate.landed import RawChanged, RawFile, changed
from lumos.aggregate.raw import Part, Source, look
from lumos.verbs import BadInput

_RAGGED = "_ragged"  # the text of a record that has not as many values as the header
_ROW_REASON = "row: it has not as many values as the header"
_MARK = "lumos: unreadable raw value"
# Spark takes a time of day for today's and a year for its first day, and drops the time of a date
# and the zone of a time without one.
_DAY = r"^\s*\d{4}-\d{1,2}-\d{1,2}"
_MOMENTS = {
    "date": _DAY + r"([ T]00:00(:00(\.0+)?)?)?\s*$",
    "timestamp": _DAY,
    "timestamp_ntz": _DAY + r"([ T][\d:.]+)?\s*$",
}
# Causes of a failed read that may be gone the next time.
_PASSING = ("java.net.", "javax.net.", "java.util.concurrent.Timeout", "com.amazonaws.",
            "software.amazon.", "org.apache.hadoop.fs.s3a.", "org.apache.http.")  # fmt: skip


def open_source(spark: SparkSession, source: Source, within: Days) -> DataFrame:
    """The declared columns of a raw table; plus ``_unreadable``, ``_text`` of a CSV fact table.

    A CSV value that is not of its column's type becomes null; of a fact table the row can then
    be told by ``_unreadable``, of a reference table reading it fails.

    Args:
        spark: The session.
        source: The table.
        within: Files whose folder says that their rows landed outside are left out. Rows are not.

    Raises:
        BadInput: A CSV file is not UTF-8, or its quotes do not enclose values.
        RawChanged: A file changed or vanished since it was listed.
    """
    table = source.table
    if source.version is not None:
        reader = spark.read.format("delta").option("versionAsOf", source.version)
        return reader.load(source.uri).select(
            *(_as(name, source.types[name], kind) for name, kind in table.columns.items())
        )
    frames = []
    for part in source.parts:
        files = [file for file in part.files if _may_land(file, source, within)]
        if files:
            open_part = _open_csv if table.format == "csv" else _open_parquet
            frames += open_part(spark, source, part, files)
    if frames:
        return reduce(DataFrame.unionByName, frames)
    schema = [f"{_quoted(name)} {kind}" for name, kind in table.columns.items()]
    if table.format == "csv" and table.role == "fact":
        schema += [f"{UNREADABLE} string", f"{TEXT} string"]
    return spark.createDataFrame([], ", ".join(schema))


def _may_land(file: RawFile, source: Source, within: Days) -> bool:
    landed = file.landed_on(source.table)
    return landed is None or within.first <= landed <= within.last


def _reader(spark: SparkSession, source: Source, files: Iterable[RawFile]) -> DataFrameReader:
    """Reads paths of :func:`_literal`, and what declared folders say."""
    first = next(iter(files))
    if not set(first.keys) & set(source.table.columns):
        return spark.read
    above = filesystem_of(source.uri)[1] + first.path.removesuffix(first.name)
    return spark.read.option("basePath", above + first.base)


def _quoted(name: str) -> str:
    escaped = name.replace("`", "``")
    return f"`{escaped}`"


def _literal(source: Source, files: Iterable[RawFile]) -> list[str]:
    """Paths for Spark, which takes each for a pattern: its characters are escaped.

    Its own option against patterns reads the other files once more for each name with such a
    character (``__globPaths__``, Spark 4.2).
    """
    prefix = filesystem_of(source.uri)[1]
    return [prefix + re.sub(r"([\\*?\[\]{}])", r"\\\1", file.path) for file in files]


def _open_parquet(
    spark: SparkSession, source: Source, part: Part, files: list[RawFile]
) -> list[DataFrame]:
    found = dict(zip(part.columns.names, part.columns.types, strict=True))
    declared = source.table.columns
    found |= {name: declared[name] for name in files[0].keys if name in declared}
    stored = {
        name: "bigint" if found[name].endswith("_ns") else found[name]
        for name in declared
        if found[name] != "void"
    }
    schema = ", ".join(f"{_quoted(name)} {kind}" for name, kind in stored.items())
    frame = _reader(spark, source, files).schema(schema).parquet(*_literal(source, files))
    return [frame.select(*(_as(name, found[name], kind) for name, kind in declared.items()))]


def _as(name: str, found: str, declared: str) -> Column:
    """A column in its declared type, which can hold what was found."""
    if found == "void":
        return F.lit(None).cast(declared).alias(name)
    column = F.col(_quoted(name))
    if found.endswith("_ns"):
        # Of decimals, as a double has too few digits for today's nanoseconds.
        micros = F.floor(column.cast("decimal(20,0)") / 1000).cast("bigint")
        if found == "timestamp_ns":
            return F.timestamp_micros(micros).alias(name)
        start = F.lit("1970-01-01").cast("timestamp_ntz")
        return F.timestamp_add("MICROSECOND", micros, start).alias(name)
    return (column if found == declared else column.cast(declared)).alias(name)


def _open_csv(
    spark: SparkSession, source: Source, part: Part, files: list[RawFile]
) -> list[DataFrame]:
    system, _ = filesystem_of(source.uri)
    ends = look(source.table, files, lambda file: csv_text.line_end(system, file.path))
    frames = []
    for end in sorted(set(ends)):
        alike = [file for file, own in zip(files, ends, strict=True) if own == end]
        # By position, as names may be empty, repeated or full of dots.
        texts = [f"_c{number} string" for number in range(len(part.columns.names))]
        keys = [f"{_quoted(key)} string" for key in alike[0].keys if key in source.table.columns]
        reader = (
            _reader(spark, source, alike)
            .schema(", ".join([*texts, *keys, f"{_RAGGED} string"]))
            .option("header", True)
            .option("escape", '"')
            .option("columnNameOfCorruptRecord", _RAGGED)
            # Else Spark counts the values of the wanted columns alone, and no record is ragged.
            .option("columnPruning", False)
        )
        if end:
            # A file is then read by one task, so only where some value holds a line break.
            reader = reader.option("multiLine", True).option("lineSep", end)
        frames.append(_typed(source, part, alike, reader.csv(_literal(source, alike))))
    return frames


def _typed(source: Source, part: Part, files: list[RawFile], texts: DataFrame) -> DataFrame:
    table, names = source.table, part.columns.names
    text_of = {name: F.col(f"_c{number}") for number, name in enumerate(names)}
    text_of |= {key: F.col(_quoted(key)) for key in files[0].keys if key in table.columns}
    is_whole = F.col(_RAGGED).isNull()
    values = {name: _parsed(text_of[name], kind) for name, kind in table.columns.items()}
    if table.role == "reference":
        return texts.select(
            *(
                F.when(is_whole & (text_of[name].isNull() | value.isNotNull()), value)
                .otherwise(_raise(source, name, text_of[name]).cast(table.columns[name]))
                .alias(name)
                for name, value in values.items()
            )
        )
    unreadable: Column = F.coalesce(
        F.when(~is_whole, F.lit(_ROW_REASON)),
        *(
            F.when(text_of[name].isNotNull() & value.isNull(), F.lit(name))
            for name, value in values.items()
        ),
    )
    options = {"ignoreNullFields": "false"}
    row = F.struct(
        *(F.col(f"_c{number}").alias(name) for number, name in enumerate(names)),
        *(text_of[key].alias(key) for key in files[0].keys if key in table.columns),
    )
    text = F.when(~is_whole, F.to_json(F.struct(F.col(_RAGGED).alias("record")))).when(
        unreadable.isNotNull(), F.to_json(row, options)
    )
    return texts.select(
        *(F.when(is_whole, value).alias(name) for name, value in values.items()),
        unreadable.alias(UNREADABLE),
        text.alias(TEXT),
    )


def _parsed(text: Column, kind: str) -> Column:
    """A text as a value of a type; null where it is not one, or only after rounding."""
    value = text.try_cast(kind)
    if kind in _MOMENTS:
        return F.when(text.rlike(_MOMENTS[kind]), value)
    if number := kinds.decimal(kind):
        exact = text.try_cast(f"decimal(38,{min(38 - number[0] + number[1], number[1] + 9)})")
        return F.when(exact == value, value)
    return value


def _raise(source: Source, name: str, text: Column) -> Column:
    """Fail with where it was, and not with what it was."""
    column = F.when(F.col(_RAGGED).isNull(), F.lit(name)).otherwise(F.lit(""))
    digest = F.sha2(F.coalesce(text, F.lit("")).cast("binary"), 256)
    said = (F.lit(_MARK), F.lit(source.table.name), column, digest, F.col("_metadata.file_path"))
    return F.raise_error(F.concat_ws("|", *said))


@contextmanager
def blaming(sources: Mapping[str, Source]) -> Iterator[None]:
    """Turn what Spark finds wrong with raw files while it reads them into an error that says where.

    Raises:
        BadInput: A value or a file cannot be read.
        RawChanged: A file vanished.
    """
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        explained = _explained(error, sources)
        if explained is None:
            raise
        raise explained from error


def _causes(error: Exception) -> Iterator[JavaObject]:
    cause = getattr(error, "java_exception", None) or getattr(error, "_origin", None)
    while cause is not None:
        yield cause
        cause = cause.getCause()


def _explained(error: Exception, sources: Mapping[str, Source]) -> Exception | None:
    causes = list(_causes(error))
    classes = [str(cause.getClass().getName()) for cause in causes]
    for cause in causes:
        condition, parameters = _condition(cause)
        said = str(parameters.get("errorMessage", ""))
        if condition == "USER_RAISED_EXCEPTION" and said.startswith(_MARK):
            return _unreadable(said, sources)
        if condition != "PATH_NOT_FOUND" and not condition.startswith("FAILED_READ_FILE"):
            continue
        path = _plain(str(parameters.get("path", "")))
        if condition == "PATH_NOT_FOUND":
            path = re.sub(r"\\(.)", r"\1", path)
        source, name = _owner(path, sources)
        if source is None or any(kind.startswith(_PASSING) for kind in classes):
            return None
        if condition == "PATH_NOT_FOUND" or condition.endswith("FILE_NOT_EXIST"):
            return RawChanged(changed(source.table, name))
        return BadInput(
            f"raw table {source.table.name}: file {name} cannot be read as {source.table.format} "
            f"({condition}, {classes[-1].rpartition('.')[2]}): it is damaged. Land it again"
        )
    return None


def _condition(cause: JavaObject) -> tuple[str, dict[str, str]]:
    """What Spark calls an error, and its details; empty for those of others."""
    try:
        return str(cause.getCondition()), dict(cause.getMessageParameters() or {})
    except Py4JError:
        return "", {}


def _plain(uri: str) -> str:
    """A path as Spark writes it in messages, without its scheme and its escapes."""
    return "/" + unquote(uri).partition(":")[2].lstrip("/")


def _owner(path: str, sources: Mapping[str, Source]) -> tuple[Source | None, str]:
    for source in sources.values():
        prefix = filesystem_of(source.uri)[1]
        root = "/" + source.uri.removeprefix(prefix).strip("/")
        if path.startswith(f"{root}/") or path == root:
            return source, path.removeprefix(f"{root}/")
    return None, ""


def _unreadable(said: str, sources: Mapping[str, Source]) -> BadInput:
    _, table_name, column, digest, path = said.split("|", 4)
    source = sources[table_name]
    own = _plain(path).lstrip("/")
    part, file = next(
        (part, file) for part in source.parts for file in part.files if file.path.lstrip("/") == own
    )
    position = part.columns.names.index(column) if column in part.columns.names else None
    system, _ = filesystem_of(source.uri)
    row = csv_text.find_record(system, file.path, position, digest)
    what = (
        f"column {column} is not {source.table.columns[column]}"
        if column
        else "has not as many values as the header"
    )
    return BadInput(
        f"raw table {table_name}: file {file.name}, row {row} (the header is row 1): {what}. "
        "Correct the file, or `columns` of the raw table in the recipe"
    )
