import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lumos.hashing import buckets_of, hash_rows

NUM_BUCKETS = 1_000_003  # a prime, and so large that two hashes seldom meet in one


@pytest.fixture(scope="module")
def by_spark(spark: SparkSession):
    def buckets(user_ids: list[str]) -> list[int]:
        frame = spark.createDataFrame(pa.table({"user_id": pa.array(user_ids, pa.string())}))
        bucket = F.pmod(F.xxhash64("user_id"), F.lit(NUM_BUCKETS))
        return frame.select(bucket.alias("bucket")).toArrow()["bucket"].to_pylist()

    return buckets


def test_ids_of_every_length_lie_in_the_buckets_that_spark_chooses(by_spark) -> None:
    rng = np.random.default_rng(7)
    user_ids = ["".join(map(chr, rng.integers(33, 126, length))) for length in range(101)]
    assert buckets_of(pa.array(user_ids), NUM_BUCKETS).tolist() == by_spark(user_ids)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=20))
def test_ids_of_any_characters_lie_in_the_buckets_that_spark_chooses(by_spark, user_ids) -> None:
    user_ids += ["", "नमस्ते", "😀" * 9]
    assert buckets_of(pa.array(user_ids), NUM_BUCKETS).tolist() == by_spark(user_ids)


def test_a_slice_of_ids_is_hashed_like_the_ids_themselves() -> None:
    user_ids = pa.array(["a", "bb", "ccc", "dd"])
    whole = buckets_of(user_ids, NUM_BUCKETS)
    assert buckets_of(user_ids.slice(1, 2), NUM_BUCKETS).tolist() == whole[1:3].tolist()
    assert buckets_of(user_ids.slice(0, 0), NUM_BUCKETS).tolist() == []


def test_rows_have_the_hash_that_spark_gives_to_all_their_columns(spark: SparkSession) -> None:
    rng = np.random.default_rng(3)
    texts = ["".join(map(chr, rng.integers(33, 126, length))) for length in range(90)]
    numbers = rng.normal(size=90)
    numbers[:6] = 0.0, -0.0, np.inf, -np.inf, np.nan, 1e-310
    days = rng.integers(-10_000, 40_000, 90).astype("datetime64[D]")
    rows = pa.table(
        {
            "day": pa.array(days, pa.date32()),
            "user_id": pa.array(texts),
            "x": pa.array(numbers),
            "y": pa.array([None if n % 3 else float(n) for n in range(90)], pa.float64()),
            "note": pa.array([None if n % 4 else f"é{n}" for n in range(90)]),
        }
    )
    theirs = spark.createDataFrame(rows).select(F.xxhash64(*rows.column_names).alias("hash"))
    ours = hash_rows(rows).view(np.int64)
    assert ours.tolist() == theirs.toArrow()["hash"].to_pylist()
    part = hash_rows(rows.slice(7, 30)).view(np.int64)
    assert part.tolist() == ours[7:37].tolist()


def test_a_column_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="type int32, expected string, double or date"):
        hash_rows(pa.table({"x": pa.array([1], pa.int32())}))
