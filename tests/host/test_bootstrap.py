"""The first lines on a rented machine, where a command may be delivered twice."""

import hashlib
import io
import zipfile
from pathlib import Path

from lumos.host.bootstrap import unpack


def wheel() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("lumos/here.py", "")
    return data.getvalue()


class Bucket:
    """Holds one object; while it is read, the same command's other process may get ahead."""

    def __init__(self, data: bytes, meanwhile=lambda: None) -> None:
        self.data, self.meanwhile, self.num_reads = data, meanwhile, 0

    def get_object(self, **_):
        self.num_reads += 1
        self.meanwhile()
        return {"Body": io.BytesIO(self.data)}


def test_of_two_processes_that_unpack_a_wheel_at_once_both_go_on(tmp_path: Path):
    data = wheel()
    named = {"uri": "s3://acme/code/lumos.whl", "sha256": hashlib.sha256(data).hexdigest()}

    def faster():
        content = tmp_path / named["sha256"] / "lumos" / "here.py"
        content.parent.mkdir(parents=True)
        content.touch()

    folder = unpack(Bucket(data, faster), named, tmp_path)
    assert (folder / "lumos" / "here.py").is_file()
    assert list(tmp_path.iterdir()) == [folder]
    again = Bucket(data)
    assert unpack(again, named, tmp_path) == folder
    assert again.num_reads == 0
