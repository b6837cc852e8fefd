import pytest

from lumos.addresses import refuse_unencoded, without_password
from lumos.verbs import BadInput


@pytest.mark.parametrize("sign", ["@", "#", "/", "?", "%", "@#", "/#?", "%zz"])
@pytest.mark.parametrize(
    "address",
    [
        "redis://lumos:{}@127.0.0.1:6379/0",
        "rediss://:{}@cache.example",
        "postgresql+psycopg://lumos:{}@db.example:5432/mlflow?sslmode=require",
        "https://lumos:{}@mlflow.example/base",
        "smtp://{}:secret@mail.example:25",
    ],
)
def test_a_password_that_is_not_encoded_is_refused_and_no_part_of_it_is_quoted(
    address: str, sign: str
) -> None:
    with pytest.raises(
        BadInput, match=r"the address in SOME_URL is not a URL: percent-"
    ) as refused:
        refuse_unencoded("SOME_URL", address.format(f"11top{sign}secret"))
    for part in ("11top", "secret", "example", "lumos"):
        assert part not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "databricks",
        "sqlite:////home/a@b #1/mlflow.db",
        "unix:///run/redis@1.sock?db=1",
        "redis://127.0.0.1:6379/0",
        "redis://lumos:to%40p%23x@127.0.0.1:6379/0",
        "redis://:a:b!c*d@127.0.0.1",
        "postgresql://postgres:@/mlflow?host=/tmp/db",
        '{"conn_type": "smtp", "password": "a@b#c"}',
    ],
)
def test_an_address_that_can_be_meant_is_taken(address: str) -> None:
    refuse_unencoded("SOME_URL", address)


def test_an_address_is_shown_without_its_password() -> None:
    assert without_password("http://u:a%40b@h:1/x") == "http://u:***@h:1/x"
    assert without_password("sqlite:////a/b") == "sqlite:////a/b"
