"""One table of which users are erased, with whatever else stands in its folder."""

import boto3
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from lumos.delta import read, replace
from lumos.erase import remove as removing
from lumos.erase.pins import Move
from lumos.erase.places import Users, places
from lumos.erase.remove import forget, remove
from lumos.erase.scan import listing, scan
from lumos.recipes import load
from tests.conftest import RECIPE
from tests.moto_server import bucket
from tests.serve.lake import DATES

USER = "m-003é"
GYM = load(RECIPE)
YESTERDAY, TODAY = DATES


def test_a_commit_of_another_writer_is_not_taken_for_one_of_ours(tmp_path):
    target = str(tmp_path / "activity")
    users, place = Users((USER,)), places(GYM)[0]
    replace(target, pa.table({"user_id": [USER, "a"], "value": [1, 2]}), where=None)
    first = DeltaTable(target).version()
    remove(target, place, scan(target, place, users), users)
    assert Move.of("sequences", target).keeps(first, TODAY)
    assert Move.of("sequences", target).is_the_same(first)
    replace(target, pa.table({"user_id": ["b"], "value": [3]}), where=None)
    assert not Move.of("sequences", target).keeps(first, TODAY)


def test_a_log_that_names_the_user_in_statistics_is_forgotten(tmp_path):
    target = str(tmp_path / "activity")
    users, place = Users((USER,)), places(GYM)[0]
    replace(target, pa.table({"user_id": [USER, "zz"], "value": [1, 2]}), where=None)
    held = scan(target, place, users)
    assert held.logs
    remove(target, place, held, users)
    forget(target, held)
    assert not scan(target, place, users)
    assert read(target)["user_id"].to_pylist() == ["zz"]


def test_a_table_in_a_bucket_forgets_as_one_on_a_disk_does(monkeypatch):
    users, place = Users((USER,)), places(GYM)[0]
    with bucket(monkeypatch) as lake:
        target = f"{lake}/a lake/activity"
        days = pa.array([YESTERDAY, TODAY, TODAY])
        table = pa.table({"user_id": [USER, USER, "zz"], "day": days})
        replace(target, table, where=None, partition=("day",))
        held = scan(target, place, users)
        assert sum(held.files.values()) == remove(target, place, held, users) == 2
        forget(target, held)
        assert not scan(target, place, users)
        assert read(target)["user_id"].to_pylist() == ["zz"]
        keys = boto3.client("s3").list_objects_v2(Bucket="lake")["Contents"]
        assert (
            sum(key["Key"].endswith(".parquet") and "_log" not in key["Key"] for key in keys) == 1
        )


def test_a_user_called_like_a_bucket_or_a_shard_is_erased_and_no_other_table_touched(tmp_path):
    target = str(tmp_path / "sequences")
    users, place = Users(("3",)), places(GYM)[0]
    replace(
        target,
        pa.table({"user_id": ["3", "33", "4"], "bucket": [3, 3, 0], "registered_on": [3, 3, 3]}),
        where=None,
        partition=("bucket",),
    )
    held = scan(target, place, users)
    assert sum(held.files.values()) == 1
    assert held.logs
    assert remove(target, place, held, users) == 1
    forget(target, held)
    assert not scan(target, place, users)
    assert sorted(read(target)["user_id"].to_pylist()) == ["33", "4"]


def test_what_a_writer_without_the_lock_commits_meanwhile_is_not_lost(tmp_path, monkeypatch):
    target = str(tmp_path / "activity")
    users, place = Users((USER,)), places(GYM)[0]
    replace(target, pa.table({"user_id": [USER, "zz"]}), where=None)
    held = scan(target, place, users)
    remove(target, place, held, users)

    def commits(root):
        found = list(listing(root))
        if not root.endswith("_delta_log/"):
            write_deltalake(target, pa.table({"user_id": ["late"]}), mode="append")
            monkeypatch.undo()
            found = list(listing(root))
        return iter(found)

    monkeypatch.setattr(removing, "listing", commits)
    with pytest.raises(RuntimeError, match="written by something else meanwhile"):
        forget(target, held)
    assert sorted(read(target)["user_id"].to_pylist()) == ["late", "zz"]
    forget(target, scan(target, place, users))
    assert sorted(read(target)["user_id"].to_pylist()) == ["late", "zz"]
    assert not scan(target, place, users)


@pytest.mark.parametrize("name", ["_commit_1.json.tmp", "9.checkpoint.parquet#1", "é.tmp"])
def test_half_a_draft_of_a_log_goes_too(tmp_path, name):
    target = str(tmp_path / "activity")
    users, place = Users((USER,)), places(GYM)[0]
    replace(target, pa.table({"user_id": ["a", "zz"]}), where=None)
    draft = tmp_path / "activity" / "_delta_log" / name
    draft.write_bytes(
        f'{{"add":{{"stats":"{{\\"minValues\\":{{\\"user_id\\":\\"{USER}'.encode()[:-1]
    )
    held = scan(target, place, users)
    assert held.logs
    forget(target, held)
    assert not draft.exists()
    assert not scan(target, place, users)
    assert sorted(read(target)["user_id"].to_pylist()) == ["a", "zz"]


def test_line_ends_of_other_scripts_in_an_id_hide_it_from_no_one(tmp_path):
    target, user = str(tmp_path / "activity"), "m\u2028\x85é"
    users, place = Users((user,)), places(GYM)[0]
    replace(target, pa.table({"user_id": [user, "zz"]}), where=None)
    held = scan(target, place, users)
    assert held.logs
    assert remove(target, place, held, users) == 1
    forget(target, held)
    assert not scan(target, place, users)
