from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumos.aggregate import kinds

NUMBERS = {
    "tinyint": (-(2**7), 2**7 - 1), "smallint": (-(2**15), 2**15 - 1),
    "int": (-(2**31), 2**31 - 1), "bigint": (-(2**63), 2**63 - 1),
    "decimal(10,2)": (Decimal("-99999999.99"), Decimal("99999999.99")),
    "decimal(38,0)": (-(10**38 - 1), 10**38 - 1), "decimal(19,0)": (-(10**19 - 1), 10**19 - 1),
    "decimal(9,0)": (-(10**9 - 1), 10**9 - 1),
    "decimal(5,3)": (Decimal("-99.999"), Decimal("99.999")),
    "decimal(21,2)": (Decimal(-(10**21 - 1)) / 100, Decimal(10**21 - 1) / 100),
}  # fmt: skip
OTHERS = ["string", "boolean", "float", "double", "date", "timestamp", "timestamp_ntz"]


@given(found=st.sampled_from(list(NUMBERS)), declared=st.sampled_from(list(NUMBERS)))
def test_a_number_fits_where_its_least_and_greatest_values_and_its_digits_do(
    found: str, declared: str
) -> None:
    (low, high), (least, greatest) = NUMBERS[found], NUMBERS[declared]
    _, scale = kinds.decimal(found) or (0, 0)
    _, wide = kinds.decimal(declared) or (0, 0)
    assert kinds.fits(found, declared) == (least <= low and high <= greatest and scale <= wide)


@pytest.mark.parametrize("found", [*NUMBERS, *OTHERS])
def test_a_type_fits_itself_a_number_fits_a_double_and_nothing_becomes_another_thing(
    found: str,
) -> None:
    fitting = {declared for declared in OTHERS if kinds.fits(found, declared)}
    if found in NUMBERS:
        assert fitting - {"float"} == {"double"}
    else:
        assert fitting == {"float", "double"} if found == "float" else fitting == {found}
    assert kinds.fits("void", found), "a column that is null in every row"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (pa.dictionary(pa.int32(), pa.large_string()), "string"),
        (pa.timestamp("ns", "UTC"), "timestamp_ns"),
        (pa.timestamp("ms", "Asia/Kolkata"), "timestamp"),
        (pa.timestamp("us"), "timestamp_ntz"),
        (pa.decimal128(10, 2), "decimal(10,2)"),
        (pa.uint32(), "bigint"),
        (pa.date64(), "date"),
        (pa.null(), "void"),
        (pa.list_(pa.int64()), "list<item: int64>"),
    ],
)
def test_types_are_spelled_as_spark_does(kind: pa.DataType, name: str) -> None:
    assert kinds.of_arrow(kind) == name


def test_a_user_is_named_by_text_or_by_a_whole_number() -> None:
    exact = {kind for kind in (*NUMBERS, *OTHERS) if kinds.is_exact_id(kind)}
    assert exact == {"string", "tinyint", "smallint", "int", "bigint", "decimal(38,0)",
                     "decimal(19,0)", "decimal(9,0)"}  # fmt: skip
