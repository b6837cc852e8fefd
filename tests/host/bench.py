"""One job at a time on a machine that really runs, for tests of its agent."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from lumos.host.folder import Folder
from lumos.host.job import JOB, RESULT, Job, Result, unpack_lines
from tests.cloud.aws import Aws
from tests.cloud.instance import Instance

BUCKET = "acme"


def a_job(instance_id: str, **changes: Any) -> Job:
    return Job.model_validate(
        {
            "arguments": (),
            "processes": None,
            "nodes": ({"instance_id": instance_id, "address": "127.0.0.1"},),
            "rendezvous_port": 29400,
            "wheels": (),
            "lock": {"path": "lock", "sha256": "0" * 64},
            "environment": {},
            "secrets": {},
            "home": "~/lumos",
            "region": "us-east-1",
            "budget_seconds": 3600,
            "beat_seconds": 0.1,
            **changes,
        }
    )


class Bench:
    """One job on the machine."""

    def __init__(self, aws: Aws, instance: Instance, code: Path, name: str) -> None:
        self.aws, self.instance, self.code = aws, instance, code
        self.folder = Folder(aws.client("s3"), f"s3://{BUCKET}/jobs/{name}/000")
        self.states = f"s3://{BUCKET}/states/{name}"
        self.path = instance.folder / f"{name}.json"

    def start(self, *do: str, **changes: Any) -> subprocess.Popen[bytes]:
        """The agent, as the bootstrap starts it; asked again it is the same job."""
        job = a_job(
            self.instance.id,
            arguments=("score", "--date=2024-05-10", *(f"--do={each}" for each in do)),
            environment={"LUMOS_STATES": self.states},
            home=f"~/{self.path.stem}",
            **changes,
        )
        data = job.model_dump_json().encode()
        self.folder.write(JOB, data)
        self.path.write_bytes(data)
        return self.instance.start(
            [sys.executable, "-m", "lumos.host.agent", f"{self.folder.uri}/{JOB}", str(self.path)],
            {"PYTHONPATH": str(self.code)},
            cwd=self.instance.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def run(self, *do: str, **changes: Any) -> Result:
        self.start(*do, **changes).communicate(timeout=60)
        return self.result

    @property
    def result(self) -> Result:
        found = self.folder.read(f"{self.instance.id}/{RESULT}")
        assert found is not None, "no result"
        return Result.model_validate_json(found.data)

    @property
    def log(self) -> list[str]:
        listed = self.folder.of(self.instance.id).list(after="log-")
        names = sorted(name for name in listed if name.startswith("log-"))
        chunks = (self.folder.read(f"{self.instance.id}/{name}") for name in names)
        return [text for chunk in chunks for _, text in unpack_lines(chunk.data)]

    def is_working(self) -> bool:
        return any("working" in line for line in self.log)

    def everything(self) -> bytes:
        """All bytes of all objects, by their names."""
        s3 = self.aws.client("s3")
        keys = [item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET)["Contents"]]
        bodies = [s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys]
        return b"\n".join([*(key.encode() for key in keys), *bodies])
