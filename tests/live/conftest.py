"""The one real Airflow of the suite, for the scheduler, alerts, Databricks and the pages.

To start it takes longer than most runs do, so it is started once, with all that any of these tests
needs: the repository's DAGs beside those of the tests, sinks for alerts, an emulated Databricks
workspace, the gym's tables of the business date. It ends with the last test of this folder, and
the mark ``LIVE`` keeps these tests in one process.

What takes long is begun at once and goes on while other tests run: see :func:`begun`. Every test
looks at runs and messages of its own, which it tells by DAG and business date.
"""

import shutil
import threading
from collections.abc import Iterator

import pyarrow as pa
import pytest

from demo.airflow import LocalAirflow
from demo.client import Run
from tests.airflow.sinks import Sinks, sinks
from tests.cloud.waiting import eventually
from tests.conftest import World
from tests.databricks.deployment import BUCKET, CLUSTER, cloud_file, stand_in_wheel
from tests.databricks.workspace import Workspace
from tests.live.night import (
    ALERTED,
    ALERTED_DAY,
    LONG_AGO,
    NEXT_DAY,
    NUM_SHARDS,
    dag_folder,
    finish,
    kill_amid_its_shards,
    known_dags,
    published_without_airflow,
)
from tests.moto_server import serving

# As few as give a champion whose scores the gates let pass.
_EPOCHS = 12


@pytest.fixture(scope="package")
def live_world(_aggregated_world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The gym aggregated, in which no model was ever trained."""
    copied = _aggregated_world.copy(tmp_path_factory.mktemp("live") / "home")
    return World(copied.home, "gym_world.recipe:recipe_of_two_mornings")


@pytest.fixture(scope="package")
def sink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sinks]:
    """Where alerts arrive."""
    with sinks(tmp_path_factory.mktemp("sink")) as found:
        yield found


@pytest.fixture(scope="package")
def live_workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """Databricks, with a bucket that its ``variables`` lead to."""
    with serving(BUCKET) as variables:
        folder = tmp_path_factory.mktemp("live_workspace")
        with Workspace(folder, variables=variables) as found:
            yield found


@pytest.fixture(scope="package")
def airflow(
    live_world: World,
    sink: Sinks,
    live_workspace: Workspace,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LocalAirflow]:
    """Running, with every DAG known to it."""
    folder = tmp_path_factory.mktemp("deployment")
    cloud = cloud_file(
        folder,
        [stand_in_wheel(folder / "wheel")],
        databricks={"cluster": CLUSTER, "poll_seconds": 0.5},
        environment={
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
            "LUMOS_LAKE": f"s3://{BUCKET}/lake",
        },
    )
    environment = {
        **live_world.environment,
        **sink.environment,
        **live_workspace.variables,
        **live_workspace.environment,
        "MLFLOW_TRACKING_URI": "",  # that of the local Airflow
        "AIRFLOW_CONN_AWS_DEFAULT": '{"conn_type": "aws"}',
        "LUMOS_CLOUD": str(cloud),
        "LUMOS_RETRY_SECONDS": "0.5",
        "LUMOS_POLL_SECONDS": "0.5",
        "LUMOS_DEADLINES": "aa_calibration=0.001",
    }
    settings = {
        "CORE__DAGS_FOLDER": str(dag_folder(folder / "dags")),
        # A verb of Spark or torch fills a core; the others are for tasks that are over in a moment.
        "CORE__PARALLELISM": "4",
        # A task that was lost is missed so late that a busy machine loses none by itself.
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    }
    with LocalAirflow(live_world.home, environment=environment, settings=settings) as running:
        eventually(lambda: set(ALERTED) | {"verbs"} <= known_dags(running), 60)
        yield running


@pytest.fixture(scope="package")
def begun(airflow: LocalAirflow, live_world: World) -> dict[str, Run]:
    """Runs that were begun at the start, by DAG or what they are for.

    The first champion is trained while the day after is aggregated, and troubles come about.
    """
    found = {dag_id: airflow.trigger(dag_id, date=ALERTED_DAY) for dag_id in ALERTED}
    few = {"settings": [f"training.epochs={_EPOCHS}"]}
    found["retraining"] = airflow.trigger("retraining", date=live_world.date, conf=few)
    (found["daily_aggregation"],) = airflow.backfill("daily_aggregation", NEXT_DAY, NEXT_DAY)
    for dag_id in ("data_quality", "ab_metrics"):
        (found[dag_id],) = airflow.backfill(dag_id, NEXT_DAY, NEXT_DAY)
    # Of a day without a single row; its DAG's other run goes first.
    found["long_ago"] = airflow.trigger("daily_aggregation", date=LONG_AGO, conf={"days": 3})
    return found


@pytest.fixture(scope="package")
def published(
    airflow: LocalAirflow,
    live_world: World,
    begun: dict[str, Run],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Run, pa.Table]:
    """A run of scoring amid whose shards the process was killed, and the rows it should give.

    The day after is ready by then, so that nothing writes to the lake while it is copied.
    """
    names = ("retraining", "daily_aggregation", "data_quality", "ab_metrics")
    finish(airflow, [begun[name] for name in names])
    home = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(live_world.home / "lake", home / "lake", symlinks=True)
    killed = threading.Event()
    killer = threading.Thread(target=kill_amid_its_shards, args=(live_world, killed))
    killer.start()
    conf = {"settings": [f"scoring.num_shards={NUM_SHARDS}"]}
    scoring = airflow.trigger("batch_scoring", date=live_world.date, conf=conf)
    undisturbed = published_without_airflow(airflow, live_world, home)
    finish(airflow, [scoring])
    killer.join()
    assert killed.is_set()
    return scoring, undisturbed


@pytest.fixture(scope="package")
def next_day(airflow: LocalAirflow, begun: dict[str, Run], published) -> list[Run]:
    """All daily DAGs of the day after, backfilled: these two needed a champion."""
    late = [
        run
        for dag_id in ("batch_scoring", "embedding")
        for run in airflow.backfill(dag_id, NEXT_DAY, NEXT_DAY)
    ]
    early = [begun[name] for name in ("daily_aggregation", "data_quality", "ab_metrics")]
    return [*early, *late]
