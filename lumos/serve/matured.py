"""Two model versions on the days on which both forecast and whose outcome is known by now."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from lumos.accio.users import Users
from lumos.accio.window import cut
from lumos.config import Recipe
from lumos.dates import EPOCH
from lumos.delta import predicate, read
from lumos.serve.accuracy import primary_loss, relative_loss
from lumos.serve.calibrate import cross_fitted
from lumos.serve.inputs import pin
from lumos.serve.sample import among
from lumos.tables import table_uri
from lumos.tasks import task_outcomes
from lumos.verbs import Request


@dataclass(frozen=True)
class Matured:
    """What came of the days on which both versions forecast.

    Attributes:
        days: Those whose longest window has passed, ascending.
        losses: Primary loss by model version over all of them; empty without days.
    """

    days: tuple[dt.date, ...]
    losses: Mapping[str, float | None]


def matured(request: Request, versions: tuple[str, str]) -> Matured:
    """Compare two versions on the shadow days that have matured by ``request.date``.

    Each is judged as it would be published: calibrated by users other than one's own half.

    Raises:
        BadInput: `sequences` is not ready for the date.
    """
    recipe = request.recipe
    longest = max(task.window_days for task in recipe.tasks)
    rows = read(
        table_uri(request.settings, recipe, "shadows"),
        where=predicate(
            model_version=list(versions), as_of=(EPOCH, request.date - dt.timedelta(days=longest))
        ),
    )
    days = [] if rows is None else _days_of_both(rows, versions)
    if rows is None or not days:
        return Matured((), {})
    users = _those(request, rows)
    losses = {}
    for version in versions:
        said = rows.filter(
            pc.and_(
                pc.equal(rows["model_version"], version),
                pc.is_in(rows["as_of"], pa.array(days, pa.date32())),
            )
        )
        losses[version] = _loss(recipe, users, said)
    return Matured(tuple(days), losses)


def _days_of_both(rows: pa.Table, versions: tuple[str, str]) -> list[dt.date]:
    days = [
        set(pc.unique(rows.filter(pc.equal(rows["model_version"], v))["as_of"]).to_pylist())
        for v in versions
    ]
    return sorted(set.intersection(*days))


def _those(request: Request, rows: pa.Table) -> Users:
    """The users of the rows, as `sequences` knows them by now."""
    ids = pc.unique(rows["user_id"]).to_numpy(zero_copy_only=False).astype(str)
    return Users.concat([among(users, ids) for users in pin(request).table(request).users()])


def _loss(recipe: Recipe, users: Users, said: pa.Table) -> float | None:
    """Primary loss of a version's rows; users that have left the platform are left out."""
    place = pc.index_in(said["user_id"], pa.array(users.user_id, pa.string()))
    said, place = said.filter(pc.is_valid(place)), place.drop_null()
    ids = said["user_id"].to_numpy().astype(object)
    origins = pc.cast(said["as_of"], pa.int32()).to_numpy()
    targets = cut(users, origins, 0, recipe.horizon_days, rows=place.to_numpy()).targets
    outcomes = task_outcomes(recipe, targets)
    losses = []
    for task in recipe.tasks:
        outcome = outcomes[task.name]
        published = cross_fitted(task, outcome, said[task.name].to_numpy(), ids)
        losses.append(relative_loss(task, outcome, published))
    return primary_loss(losses)
