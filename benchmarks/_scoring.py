"""A made-up platform ready to be scored and published: a champion, an evaluation, good quality.

The champion has drawn weights and a fitted scaler: speed does not depend on what it has learned.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from deltalake import DeltaTable

from benchmarks import _worlds as worlds
from lumos import ledger
from lumos.accio.contract import load_events
from lumos.accio.users import Users
from lumos.accio.window import cut
from lumos.cli import VERBS
from lumos.config import Recipe
from lumos.datasets.fantasy_sports import World
from lumos.dates import day_number, from_day_number
from lumos.delta import DataFile, commit_files, data_files, predicate, replace
from lumos.model.forecaster import Forecaster, ForecasterConfig
from lumos.model.loss import Objective
from lumos.overrides import override
from lumos.serve.inputs import pin
from lumos.settings import Settings
from lumos.tables import ROW_GROUP_USERS, table_uri, tables
from lumos.tasks import task_outcomes, task_scores
from lumos.train import checkpoint, tracking
from lumos.train.checkpoint import Checkpoint
from lumos.train.predict import forecast
from lumos.train.scaler import Scaler, ScalerFit
from lumos.verbs import BadInput, Request, TableWritten

DATE = World(1).last_day
TABLES = ("event_context", "users", "sequences")
PLAYED = 100_000
_EVALUATED_USERS = 4_000


def recipe_of(num_users: int) -> tuple[Settings, Recipe]:
    """A world's tables, written if they are not there, and its recipe; MLflow lies beside them.

    More than :data:`PLAYED` users are copies of so many under other names: to play a million
    users' four years takes longer than all that is measured.
    """
    if num_users > PLAYED:
        settings, shaped = _copied(num_users)
    else:
        settings, shaped = worlds.write(num_users, TABLES)
    # Scores of drawn weights are calibrated by what came true, but need not be well.
    return settings, override(shaped, {"publishing.max_calibration_error": 1.0})


def _copied(num_users: int) -> tuple[Settings, Recipe]:
    """Tables of a world of :data:`PLAYED` users, each of them copied under other names."""
    if num_users % PLAYED:
        msg = f"{num_users} users are not a multiple of {PLAYED}, which are copied"
        raise BadInput(msg)
    source, recipe = worlds.write(PLAYED, TABLES)
    home = source.home.parent / f"copies-{num_users}"
    settings = Settings.from_environment({"LUMOS_HOME": str(home)})
    asked = request(settings, recipe, "land")
    inputs: dict[str, int | str] = {"copies": num_users // PLAYED}
    if ledger.already_done(asked, "sequences", inputs):
        return settings, recipe
    written = []
    for name in ("event_context", "sequences"):
        times = num_users // PLAYED if name == "sequences" else 1
        files = _copy(source, settings, recipe, name, times)
        schema = tables(recipe)[name].arrow_schema(recipe)
        partition = list(tables(recipe)[name].partition)
        uri = table_uri(settings, recipe, name)
        DeltaTable.create(uri, schema, mode="ignore", partition_by=partition or None)
        version = commit_files(uri, files, schema, partition=partition)
        rows = sum(file.num_rows for file in files)
        written.append(TableWritten(table=name, version=version, rows=rows))
    report = asked.report(tables=tuple(written))
    ledger.record(asked, report, inputs=inputs, first_day=World(PLAYED).first_day)
    return settings, recipe


def _copy(
    source: Settings, settings: Settings, recipe: Recipe, name: str, times: int
) -> list[DataFile]:
    """The files of a table so many times, user ids prefixed by the number of the copy."""
    at, to = (Path(table_uri(each, recipe, name)) for each in (source, settings))
    made = []
    for file in data_files(DeltaTable(str(at))):
        rows = pq.read_table(at / file.path, partitioning=None)
        for number in range(times):
            path = Path(file.path)
            copy = path.with_name(f"{number:03d}-{path.name}")
            (to / copy).parent.mkdir(parents=True, exist_ok=True)
            named = rows
            if "user_id" in rows.column_names:
                ids = pc.binary_join_element_wise(str(number), rows["user_id"], "-")
                named = rows.set_column(rows.column_names.index("user_id"), "user_id", ids)
            pq.write_table(named, to / copy, compression="zstd", row_group_size=ROW_GROUP_USERS)
            size = (to / copy).stat().st_size
            made.append(DataFile(str(copy), size, file.num_rows, file.partition))
    return made


def request(settings: Settings, recipe: Recipe, verb: str, *, force: bool = False) -> Request:
    """A verb's request with the options it has by default."""
    options = {flag.name.replace("-", "_"): flag.default for flag in VERBS[verb].flags}
    return Request(
        verb=verb, recipe=recipe, date=DATE, settings=settings, options=options, force=force
    )


def make_ready(settings: Settings, recipe: Recipe) -> None:
    """Enter a good quality; draw, register, evaluate and crown a model, unless that was done."""
    validated = request(settings, recipe, "validate")
    quality = TableWritten(table="quality", version=0, rows=0)
    ledger.record(validated, validated.report(tables=(quality,)), inputs={}, first_day=DATE)
    if tracking.version_of(settings, recipe, "champion") is not None:
        return
    asked = request(settings, recipe, "score")
    table = pin(asked).table(asked)
    users = Users.concat([table.read(n) for n in range(min(4, len(table.shards)))])
    drawn = draw(settings, recipe, users)
    folder = settings.home / "drawn"
    checkpoint.save(folder / tracking.CHECKPOINT_FOLDER, drawn)
    run = tracking.Run.start(settings, recipe, "drawn", tags={"as_of": str(DATE)})
    version = run.register(folder, "drawn weights")
    _evaluate(settings, recipe, drawn, users.part(0, min(len(users), _EVALUATED_USERS)), version)
    name = tracking.model_name(recipe)
    tracking.client(settings).set_registered_model_alias(name, "champion", version)


def draw(settings: Settings, recipe: Recipe, users: Users) -> Checkpoint:
    """Weights of a fixed seed, and a scaler fitted on these users."""
    last = day_number(DATE) - 4 * recipe.horizon_days
    fit = ScalerFit(recipe, last, last + recipe.horizon_days)
    fit.add(users.take(users.registered <= last))
    scaler = fit.scaler(load_events(settings, recipe, None), last - 2 * recipe.history_days)
    return Checkpoint(
        model=_network(recipe, scaler),
        scaler=scaler,
        recipe=recipe,
        info={
            "as_of": str(DATE),
            "first_training_origin": str(from_day_number(last - 365)),
            "last_label": str(from_day_number(last)),
        },
    )


def _network(recipe: Recipe, scaler: Scaler) -> Forecaster:
    torch.manual_seed(0)
    config = ForecasterConfig.of(recipe, num_static=scaler.num_static, num_events=scaler.num_events)
    forecaster = Forecaster(config)
    objective = Objective(forecaster, recipe.training.loss)
    objective.start_at(scaler.first_outputs(config), scaler.first_losses(config))
    return forecaster.eval()


def judged(recipe: Recipe, users: Users) -> tuple[Users, np.ndarray, dict[str, np.ndarray]]:
    """Users registered at the last matured origin; their origins; what came true of each task."""
    origin = day_number(DATE) - recipe.horizon_days
    there = users.take(users.registered <= origin)
    origins = np.full(len(there), origin, np.int32)
    targets = cut(there, origins, recipe.history_days, recipe.horizon_days).targets
    return there, origins, task_outcomes(recipe, targets)


def _evaluate(
    settings: Settings, recipe: Recipe, model: Checkpoint, users: Users, version: str
) -> None:
    """Forecast and outcome of some users: all that `publish` needs of an evaluation."""
    there, origins, outcomes = judged(recipe, users)
    events = load_events(settings, recipe, None)
    said = task_scores(recipe, forecast(model, there, origins, events, batch_size=64))
    columns: dict[str, object] = {
        "as_of": [DATE] * len(there),
        "origin": origins,
        "user_id": there.user_id,
        "is_held_out": [True] * len(there),
        "model_version": [version] * len(there),
    }
    for task in recipe.tasks:
        columns[f"{task.name}_forecast"] = said[task.name]
        columns[f"{task.name}_outcome"] = outcomes[task.name]
    declared = tables(recipe)["evaluations"]
    schema = declared.arrow_schema(recipe)
    replace(
        table_uri(settings, recipe, declared.name),
        pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema),
        where=predicate(as_of=DATE, model_version=version),
        partition=declared.partition,
    )
