"""One emulated workspace and one bucket for all tests of this folder; each has runs of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tests.airflow_home  # noqa: F401
from tests.databricks.deployment import BUCKET, cloud_file, stand_in_wheel
from tests.databricks.workspace import Workspace
from tests.moto_server import serving

GYM = Path(__file__).resolve().parents[1] / "gym"


@pytest.fixture(scope="package")
def aws() -> Iterator[dict[str, str]]:
    """S3, as environment variables."""
    with serving(BUCKET) as variables:
        yield variables


@pytest.fixture(scope="package")
def workspace(aws: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with Workspace(tmp_path_factory.mktemp("workspace"), variables=aws, path=[GYM]) as found:
        yield found


@pytest.fixture(scope="package")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stand_in_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def deploy(
    workspace: Workspace,
    aws: dict[str, str],
    wheel: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., None]:
    """Make this process a worker of a deployment; may be called again with other values."""

    def deploy(*, wheels: list[Path] | None = None, **given: Any) -> None:
        environment = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", **given.pop("environment", {})}
        path = cloud_file(tmp_path, wheels or [wheel], environment=environment, **given)
        for name, value in {
            **aws,
            **workspace.environment,
            "LUMOS_CLOUD": str(path),
            "LUMOS_LAKE": f"s3://{BUCKET}/lake",
            "LUMOS_RECIPE": "complete_journey",
            # Otherwise Airflow would look for them in its database.
            "AIRFLOW_CONN_AWS_DEFAULT": '{"conn_type": "aws"}',
        }.items():
            monkeypatch.setenv(name, value)

    return deploy


@pytest.fixture
def deployed(deploy: Callable[..., None], workspace: Workspace) -> Workspace:
    """The stand-in on a cluster."""
    deploy()
    return workspace
