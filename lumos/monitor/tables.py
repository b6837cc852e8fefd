"""What is monitored of a day's tables: freshness, volume, schema and the drift of columns."""

import datetime as dt
from collections.abc import Iterator, Mapping

import pyarrow.compute as pc

from lumos import ledger
from lumos.delta import open_table, read
from lumos.gone import VersionGone
from lumos.monitor.histograms import MISSING
from lumos.monitor.history import FEWEST_DAYS, Limits
from lumos.monitor.names import TABLES
from lumos.monitor.reference import Reference, ready_entries, reference, sources
from lumos.monitor.words import compared, drifts, unknown
from lumos.serve.metrics import Metric, Verdict
from lumos.tables import table_uri
from lumos.verbs import Request

_CONTRACT = ("activity", "users", "event_context")
# Of the logarithm of a count: a third fewer or half as many again, and half or twice as many.
_VOLUME = Limits(0.4, 0.69)
_LOOK_VOLUME = "Look at the raw tables: did all of the day land, once"
_LOOK_REJECTED = "Look at quarantine, which has them with their reasons"
_LOOK_LATE = "They are in quarantine: aggregate as far back as the oldest of them"
_LOOK_DRIFT = "Look at its histogram on the page, then at the SELECT and at the platform's releases"


class TableMonitors:
    """The half ``tables`` for one request; what it reads is pinned when it is made."""

    half = TABLES

    def __init__(self, request: Request) -> None:
        """Find out what is to be compared.

        Raises:
            BadInput: The date has not been aggregated.
        """
        self._request = request
        ready = ready_entries(request)
        self._versions = sources(request, ready)
        self._now, self._before = ready[-1], ready[-2] if len(ready) > 1 else None

    @property
    def inputs(self) -> dict[str, int | str]:
        """What the ledger compares a rerun by."""
        before = self._before
        return {
            "activity": self._versions[self._request.date],
            "compared": " ".join(f"{day}@{version}" for day, version in self._versions.items()),
            "previous": f"{before.business_date}@{before.version}" if before else "none",
        }

    def findings(self) -> list[Metric]:
        """Every monitor of the half, in the order of their names."""
        known = reference(self._request, self._versions)
        return [
            *self._freshness(known),
            self._volume(known),
            *self._rejected(),
            *self._schema(),
            *self._drift(known),
        ]

    def _freshness(self, known: Reference) -> Iterator[Metric]:
        date = self._request.date
        open_days = sorted(known.days)
        look = "Look at daily_aggregation: did the platform's rows land"
        if not open_days:
            yield unknown("freshness", "activity", f"no day up to {date} has a row")
        else:
            yield self._behind(known, look)
        if self._request.recipe.events:
            yield self._calendar()

    def _behind(self, known: Reference, look: str) -> Metric:
        """Days since the last one with a row, against the longest gap there was before."""
        date, past = self._request.date, known.past
        behind = _behind(known, date)
        if len(past) < FEWEST_DAYS and behind == 0:
            why = f"{date} has rows, and {len(past)} days before it tell too little of gaps"
            return unknown("freshness", "activity", why)
        most = max((_behind(known, day) for day in past), default=0)
        verdict: Verdict = (
            "ok" if behind <= most else "warning" if behind == most + 1 else "critical"
        )
        message = (
            f"activity: the newest day with a row lies {behind} days before {date}; on "
            f"{len(past)} days before, it was at most {most}."
        )
        shown = message + ("" if verdict == "ok" else f" {look}.")
        return Metric("freshness", float(behind), "activity", verdict, shown)

    def _calendar(self) -> Metric:
        """How far the calendar reaches, against what it reached on the mornings before."""
        request, name = self._request, "event_context"
        version = _version(self._now, name)
        uri = table_uri(request.settings, request.recipe, name)
        is_there = version is not None
        rows = read(uri, version=version, columns=["day", "known_on"]) if is_there else None
        if rows is None or not rows.num_rows:
            return unknown("freshness", name, f"there is none for {request.date}")
        date, mornings = request.date, range(1, 29)

        def ahead(morning: dt.date) -> int | None:
            known = rows.filter(pc.less_equal(rows["known_on"], morning))["day"]
            return (pc.max(known).as_py() - morning).days if len(known) else None

        reached = ahead(date)
        before = [ahead(date - dt.timedelta(days=back)) for back in mornings]
        usual = [days for days in before if days is not None]
        if reached is None or len(usual) < FEWEST_DAYS:
            return unknown("freshness", name, f"{len(usual)} mornings before {date} knew one")
        least = min(min(usual), request.recipe.horizon_days)
        verdict: Verdict = "ok" if reached >= least else "warning"
        message = (
            f"{name}: the calendar known on {date} reaches {reached} days ahead; on the "
            f"{len(usual)} mornings before at least {min(usual)}, and forecasts need "
            f"{request.recipe.horizon_days}."
        )
        look = "" if verdict == "ok" else " Look at the raw table of events: did it land."
        return Metric("freshness", float(reached), name, verdict, message + look)

    def _volume(self, known: Reference) -> Metric:
        date, active = self._request.date, self._request.recipe.active
        history = {day: float(known.num_active(active, day)) for day in known.past}
        return compared(
            "volume",
            "activity",
            float(known.num_active(active, date)),
            history,
            date=date,
            limits=_VOLUME,
            look=_LOOK_VOLUME,
            is_log=True,
        )

    def _rejected(self) -> Iterator[Metric]:
        """Raw rows that the date's run could not use, and those that came too late for their day.

        No day has them, and nobody will miss them by looking at any day alone.
        """
        date, report = self._request.date, self._now.report
        landed, late = report.metrics.get("raw_rows_landed"), report.details.get("late_rows") or 0
        rejected = report.rows_rejected - late
        most = self._request.recipe.quality.max_quarantined_share
        share = rejected / landed if landed else 0.0
        reasons = report.details.get("rejected") or {}
        said = ", ".join(f"{number} {reason}" for reason, number in reasons.items())
        message = (
            f"raw: {rejected} of {landed or 0:.0f} rows ({share:.1%}) of the days that `aggregate` "
            f"of {date} looked at were rejected; {most:.1%} is allowed."
        )
        if share > most:
            message += f" {_LOOK_REJECTED}: {said}."
            yield Metric("rejected_rows", share, "raw", "warning", message)
        else:
            yield Metric("rejected_rows", share, "raw", "ok", message)
        message = (
            f"raw: {late} rows had landed by {date} for days that `aggregate` of the date no "
            "longer looks back to."
        )
        if late:
            yield Metric("late_rows", float(late), "raw", "warning", f"{message} {_LOOK_LATE}.")
        else:
            yield Metric("late_rows", 0.0, "raw", "ok", message)

    def _schema(self) -> Iterator[Metric]:
        """Columns and types of the date's tables against the previous ready date's."""
        before = self._before
        ours = self._now.report.details.get("raw_schema")
        theirs = before.report.details.get("raw_schema") if before else None
        declared = {table.name: set(table.columns) for table in self._request.recipe.raw}
        for name, needed in declared.items():
            yield self._changed(
                f"raw.{name}", (ours or {}).get(name), (theirs or {}).get(name), needed
            )
        for name in _CONTRACT:
            if name == "event_context" and not self._request.recipe.events:
                continue
            was = self._columns(name, before)
            yield self._changed(name, self._columns(name, self._now), was, set(was or ()))

    def _columns(self, name: str, entry: ledger.Entry | None) -> Mapping[str, str] | None:
        uri = table_uri(self._request.settings, self._request.recipe, name)
        version = _version(entry, name) if entry else None
        try:
            table = open_table(uri, version) if version is not None else None
        except VersionGone:
            table = None
        if table is None:
            return None
        return {f.name: str(getattr(f.type, "type", f.type)) for f in table.schema().fields}

    def _changed(
        self,
        segment: str,
        ours: Mapping[str, str] | None,
        theirs: Mapping[str, str] | None,
        needed: set[str],
    ) -> Metric:
        date, before = self._request.date, self._before
        if ours is None or theirs is None:
            whose = date if ours is None else before.business_date if before else "any day before"
            return unknown("schema", segment, f"no columns are recorded for {whose}")
        lost = [name for name in theirs if name not in ours]
        other = [name for name in ours if theirs.get(name, ours[name]) != ours[name]]
        new = [name for name in ours if name not in theirs]
        said = [
            *(f"column {name} ({theirs[name]}) is gone" for name in lost),
            *(f"column {name} is {ours[name]} and was {theirs[name]}" for name in other),
            *(f"column {name} ({ours[name]}) is new" for name in new),
        ]
        assert before is not None, "its columns were compared"
        if not said:
            message = f"{segment}: all {len(ours)} columns are those of {before.business_date}."
            return Metric("schema", 0.0, segment, "ok", message)
        verdict: Verdict = "critical" if needed & {*lost, *other} else "warning"
        look = "Look at the platform's release notes, and at `raw` in the recipe"
        message = f"{segment}: since {before.business_date} {'; '.join(said)}. {look}."
        return Metric("schema", float(len(said)), segment, verdict, message)

    def _drift(self, known: Reference) -> Iterator[Metric]:
        date, recipe = self._request.date, self._request.recipe
        open_days = [day for day in known.past if day in known.days]
        names = [n for n in known.days.get(date, {}) if n != recipe.active]
        if not names:
            for prefix in ("drift_psi", "drift_ks"):
                yield unknown(prefix, "activity", f"{date} has no row")
        for name in names:
            columns = {day: known.days[day].get(name, {}) for day in open_days}
            # Days from before a column was added have no value in it at all.
            past = {day: column for day, column in columns.items() if set(column) - {MISSING}}
            yield from drifts(
                "drift",
                f"activity.{name}",
                known.days[date][name],
                past,
                date=date,
                look=_LOOK_DRIFT,
            )


def _version(entry: ledger.Entry, name: str) -> int | None:
    """The version of a table that `aggregate` left with an entry of `activity`."""
    return next((t.version for t in entry.report.tables if t.table == name), None)


def _behind(known: Reference, date: dt.date) -> int:
    """Days from the newest one with a row, up to the date, to the date."""
    newest = max((day for day in known.days if day <= date), default=None)
    return (date - newest).days if newest else len(known.versions)
