from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from lumos.accio.read import Users, read_index, read_users, sequence_files
from lumos.config import Recipe
from lumos.tables import table_uri
from lumos.verbs import BadInput
from tests.accio import small


def everyone_at(home: Path, version: int) -> Users:
    uri = table_uri(small.settings(home), small.recipe(), "sequences")
    files = sequence_files(uri, version)
    assert [file.bucket for file in files] == [0, 1]
    whole = Users.concat([read_users(file, small.recipe()) for file in files])
    assert sum(file.num_rows for file in files) == len(whole)
    return whole.take(np.argsort(whole.user_id))


def assert_same(a: Users, b: Users) -> None:
    assert a.user_id.tolist() == b.user_id.tolist()
    for name in ("registered", "values", "days", "splits"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
        assert getattr(a, name).dtype == getattr(b, name).dtype, name
    assert a.static.to_pydict() == b.static.to_pydict()


def test_what_was_written_is_read_back_at_the_pinned_version(tmp_path: Path) -> None:
    home = tmp_path / "a lake 100%"  # paths in the log are URL-encoded
    first, second = small.users(seed=0), small.users(seed=1)
    before = small.version(small.write_lake(home, first), "sequences")
    after = small.version(small.write_lake(home, second), "sequences")
    assert_same(everyone_at(home, before), first)
    assert_same(everyone_at(home, after), second)


def test_a_user_without_any_active_day_is_a_user(tmp_path: Path) -> None:
    users = small.users(4)
    first_two = users.splits[2]
    quiet = Users(
        users.user_id,
        users.registered,
        users.static,
        users.values[:first_two],
        users.days[:first_two],
        np.minimum(users.splits, first_two),
    )
    settings = small.write_lake(tmp_path, quiet)
    assert_same(everyone_at(tmp_path, small.version(settings, "sequences")), quiet)


def test_the_index_agrees_with_the_whole(tmp_path: Path) -> None:
    for file in small.files(small.write_lake(tmp_path, small.users())):
        user_id, registered = read_index(file)
        whole = read_users(file, small.recipe())
        assert user_id.tolist() == whole.user_id.tolist()
        assert registered.tolist() == whole.registered.tolist()


def test_users_are_taken_in_any_order_and_more_than_once() -> None:
    users = small.users(5)
    taken = users.take(np.array([3, 0, 3]))
    assert taken.user_id.tolist() == [users.user_id[n] for n in (3, 0, 3)]
    for place, user in enumerate((3, 0, 3)):
        mine = slice(taken.splits[place], taken.splits[place + 1])
        theirs = slice(users.splits[user], users.splits[user + 1])
        np.testing.assert_array_equal(taken.values[mine], users.values[theirs])
        np.testing.assert_array_equal(taken.days[mine], users.days[theirs])
    assert_same(users.take(np.ones(5, bool)), users)
    assert len(users.take(np.zeros(5, bool))) == 0
    assert_same(Users.concat([users.take(np.arange(2)), users.take(np.arange(2, 5))]), users)


def test_a_table_of_another_recipe_is_refused_by_the_names_it_lacks(tmp_path: Path) -> None:
    files = small.files(small.write_lake(tmp_path, small.users()))
    fields = small.recipe().model_dump()
    extra = {"name": "swam", "kind": "binary", "unit": "0 or 1"}
    fields["activity"] = [*fields["activity"], extra]
    fields["static"] = [*fields["static"], {"name": "shoe_size", "kind": "continuous"}]
    with pytest.raises(BadInput, match=r"lacks shoe_size, swam of recipe gym"):
        read_users(files[0], Recipe.model_validate(fields))


def test_a_missing_table_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no Delta table at .*lumos sequences"):
        sequence_files(str(tmp_path / "nowhere"), 0)


def test_column_mapping_and_deletion_vectors_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small.write_lake(tmp_path, small.users())
    uri = table_uri(settings, small.recipe(), "sequences")
    version = small.version(settings, "sequences")
    # delta-rs cannot write either; the log of a table that has them says so in these places.
    protocol = DeltaTable(uri).protocol()._replace(reader_features=["deletionVectors"])
    with monkeypatch.context() as patch:
        patch.setattr(DeltaTable, "protocol", lambda _: protocol)
        patch.setattr(DeltaTable, "deletion_vectors", lambda _: pa.table({"filepath": ["a"]}))
        with pytest.raises(BadInput, match="deletion vectors"):
            sequence_files(uri, version)
    log = next(Path(uri).glob("_delta_log/*0.json"))
    mapped = log.read_text().replace(
        '"configuration":{', '"configuration":{"delta.columnMapping.mode":"name"'
    )
    log.write_text(mapped)
    with pytest.raises(BadInput, match="column mapping"):
        sequence_files(uri, version)
