"""One executing AWS for each test that asks for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloud.aws import Aws


@pytest.fixture
def aws(tmp_path: Path) -> Iterator[Aws]:
    with Aws(tmp_path, boot_seconds=0.1, agent_seconds=0.1) as aws:
        aws.minute_seconds = 1.0
        yield aws
