"""What the pilot's fork server does once, so that no step has to: imports, the DAG, the clients."""

import airflow.providers.amazon.aws.hooks.s3  # noqa: F401
from lumos_airflow.hooks.databricks import Runs  # noqa: F401
from lumos_airflow.hooks.torchrun_ec2 import TorchrunEc2Hook

from lumos.cloud import read_cloud
from lumos.settings import Settings
from tests.cloud import steps

steps.tasks("retraining")
_hook = TorchrunEc2Hook(read_cloud(Settings.from_environment().cloud))
_clients = (_hook.ec2, _hook.ssm, _hook.s3)
