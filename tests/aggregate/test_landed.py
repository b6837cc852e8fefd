import os
import unicodedata
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumos.aggregate.landed import RawChanged, check_unchanged, folder_keys, is_data, list_files
from lumos.config import RawTable
from lumos.verbs import BadInput

TABLE = RawTable(
    name="visits",
    role="reference",
    format="csv",
    columns={"landed_on": "date"},
    landed_on="landed_on",
)
PARTS = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=12
).filter(lambda part: part not in (".", ".."))


def write(folder: Path, name: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("landed_on\n2024-05-09\n")


def test_every_file_that_is_not_hidden_is_listed_whatever_its_name(tmp_path: Path) -> None:
    names = [
        "a.csv", "archive/b.csv", "2024/05/09/c.csv", "landed_on=2024-05-09/d.csv", "e[1].csv",
        "f{x}*?.csv", "100%/g%20h.csv", "i j/ü日本.csv", "_k=v/l.csv", "landed_on=2024-05-09/m/n",
    ]  # fmt: skip
    hidden = ["_SUCCESS", ".a.csv.crc", "_tmp/a.csv", "x/.git/a.csv", "x/a.csv._COPYING_"]
    for name in (*names, *hidden):
        write(tmp_path / "raw", name)
    found = list_files(str(tmp_path / "raw"))
    assert sorted(file.name for file in found) == sorted(names)
    assert all(Path(file.path).is_file() for file in found)
    assert list_files(str(tmp_path / "none")) == []


def test_a_path_that_is_a_file_is_the_table(tmp_path: Path) -> None:
    write(tmp_path, "one.csv")
    write(tmp_path, "other.csv")
    assert [file.name for file in list_files(str(tmp_path / "one.csv"))] == ["one.csv"]


@given(folders=st.lists(PARTS, max_size=4), name=PARTS)
def test_a_file_is_hidden_by_any_part_of_its_name_and_by_nothing_else(
    folders: list[str], name: str
) -> None:
    parts = [*folders, name]
    hidden = any(p[0] == "." or (p[0] == "_" and "=" not in p) for p in parts)
    assert is_data("/".join(parts)) == (not hidden and not name.endswith("._COPYING_"))


@given(
    above=st.lists(st.from_regex(r"[a-z]{1,5}", fullmatch=True), max_size=2),
    keys=st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), PARTS, max_size=3),
    below=st.lists(st.from_regex(r"[a-z]{1,5}", fullmatch=True), max_size=2),
)
def test_folders_that_say_a_value_are_found_at_any_depth(
    above: list[str], keys: dict[str, str], below: list[str]
) -> None:
    escaped = [f"{key}={value.replace('%', '%25')}" for key, value in keys.items()]
    base, found = folder_keys("/".join([*above, *escaped, *below, "a.csv"]))
    assert found == keys
    if keys:
        assert base == "/".join(above)


def test_a_folder_whose_landing_day_is_not_a_date_is_refused_with_the_file(tmp_path: Path) -> None:
    write(tmp_path, "landed_on=9th/a.csv")
    (file,) = list_files(str(tmp_path))
    with pytest.raises(BadInput, match=r"landed_on=9th/a\.csv.*not a date"):
        file.landed_on(TABLE)
    write(tmp_path, "landed_on=__HIVE_DEFAULT_PARTITION__/b.csv")
    assert list_files(str(tmp_path))[-1].landed_on(TABLE) is None


@pytest.mark.parametrize("change", ["grows", "is written again", "vanishes"])
def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path, change: str) -> None:
    write(tmp_path, "a.csv")
    write(tmp_path, "sub/b.csv")
    files = list_files(str(tmp_path))
    check_unchanged(str(tmp_path), TABLE, files)
    changed = tmp_path / "sub" / "b.csv"
    if change == "grows":
        changed.write_text("landed_on\n2024-05-09\n2024-05-10\n")
    elif change == "is written again":
        os.utime(changed, ns=(1, 1))
    else:
        changed.unlink()
    with pytest.raises(RawChanged, match=r"visits: file sub/b\.csv changed or vanished"):
        check_unchanged(str(tmp_path), TABLE, files)


def test_a_name_is_kept_in_the_form_of_its_file_system(tmp_path: Path) -> None:
    # Composed and decomposed accents are two files.
    for form in ("NFC", "NFD"):
        write(tmp_path, unicodedata.normalize(form, "é.csv"))
    files = list_files(str(tmp_path))
    assert len({file.path for file in files}) == 2
    infos = pafs.LocalFileSystem().get_file_info([file.path for file in files])
    assert all(info.type == pafs.FileType.File for info in infos)
