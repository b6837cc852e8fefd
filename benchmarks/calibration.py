"""Do published chances come true as often as they say, and do intervals hold what they promise?

Calibrators and intervals are fitted on October's origins whose windows had ended by the first
judged one, 2017-11-04, and judged on the eight weekly origins from then on (Complete Journey; the
forecaster learned from labels up to October 7). Beside it stands the ECE of calibrators fitted
anew for each judged week on the four latest origins whose horizon had ended, as publishing has
them day by day.

ECE is the mean distance between forecast and outcome over ten bins of equally many forecasts; the
same over ten bins of equal width stands beside it, and a floor: what forecasts show that are right
by construction, outcomes drawn by the forecasts themselves. It takes a user's weeks as
independent, and is a little low for it. Single days are shown beside the recipe's tasks.

``--compare`` shows other ways to calibrate, on October alone (by the other half of the users, and
by its first weeks on its last) and, for the record, on the judged weeks. Choices were made on
October.

    python -m benchmarks.calibration [--plot FILE.png] [--compare] [--world fantasy_sports]
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks._calibrators import KINDS, Map
from benchmarks._matured import Matured, complete_journey, made_up
from lumos.config import Task
from lumos.operating import CalibrationConfig
from lumos.serve.accuracy import auc, bins, calibration_error, log_loss
from lumos.serve.calibrators import fit_task, in_first_half
from lumos.serve.intervals import fit_interval
from lumos.study.curves import reliability

LEVEL = CalibrationConfig().interval_level
NUM_BINS = 10
DRAWS = 200
_SHOWN = Console(width=120)


@dataclass(frozen=True)
class Chances:
    """One binary task on the judged weeks."""

    task: Task
    raw: np.ndarray
    calibrated: np.ndarray
    refitted: np.ndarray
    outcome: np.ndarray
    user: np.ndarray


@dataclass(frozen=True)
class Amounts:
    """One amount on the judged weeks."""

    task: Task
    score: np.ndarray
    low: np.ndarray
    high: np.ndarray
    outcome: np.ndarray
    user: np.ndarray

    @property
    def is_inside(self) -> np.ndarray:
        """Which outcomes their intervals hold."""
        return (self.low <= self.outcome) & (self.outcome <= self.high)


def judged(matured: Matured) -> Iterator[Chances | Amounts]:
    """Every task as `lumos publish` would have it."""
    for task in matured.tasks:
        said, came = matured.forecasts[task.name], matured.outcomes[task.name]
        fit, test = matured.fitted_on(task), matured.judged_on(task)
        calibrator = fit_task(task, came[fit], said[fit])
        score, outcome, user = calibrator(said[test]), came[test], matured.user[test]
        if task.is_binary:
            yield Chances(task, said[test], score, refitted(matured, task)[test], outcome, user)
        else:
            interval = fit_interval(task, LEVEL, came[fit], calibrator(said[fit]))
            yield Amounts(task, score, *interval(score), outcome, user)


def refitted(matured: Matured, task: Task) -> np.ndarray:
    """Calibrated by what `lumos evaluate` would have on each row's origin, for the judged rows."""
    said, came = matured.forecasts[task.name], matured.outcomes[task.name]
    calibrated = np.full_like(said, np.nan)
    test = matured.judged_on(task)
    for origin in np.unique(matured.origin[test]):
        fit, rows = matured.evaluated_by(int(origin)), test & (matured.origin == origin)
        calibrated[rows] = fit_task(task, came[fit], said[fit])(said[rows])
    return calibrated


def equal_width_error(outcome: np.ndarray, forecast: np.ndarray) -> float:
    """ECE over bins of equal width."""
    number = np.minimum((forecast * NUM_BINS).astype(int), NUM_BINS - 1)
    gap = np.bincount(number, forecast, NUM_BINS) - np.bincount(number, outcome, NUM_BINS)
    return float(np.abs(gap).sum() / len(outcome))


def chance_floor(forecast: np.ndarray) -> float:
    """Mean ECE of outcomes drawn by the forecasts themselves."""
    random = np.random.default_rng(0)
    number = bins(forecast, NUM_BINS)
    said = np.bincount(number, forecast, NUM_BINS)
    found = []
    for _ in range(DRAWS):
        came = np.bincount(number, random.random(len(forecast)) < forecast, NUM_BINS)
        found.append(np.abs(said - came).sum() / len(forecast))
    return float(np.mean(found))


def standard_error(values: np.ndarray, user: np.ndarray) -> float:
    """Of a mean, over users: a user's weeks are alike."""
    residual = np.bincount(user, values - values.mean())
    return float(np.sqrt((residual**2).sum()) / len(values))


def show_chances(found: list[Chances]) -> dict[str, float]:
    """The table of binary tasks; returns the largest errors of the recipe's, and of single days."""
    table = Table(title=f"Chances on judged weeks, ECE over {NUM_BINS} bins")
    for heading in ("", "rows", "share", "raw", "ECE", "refitted", "width", "floor", "mean gap"):
        table.add_column(heading, justify="right")
    figures = {"ece_max": 0.0, "ece_max_refitted": 0.0, "ece_days_max": 0.0}
    for x in found:
        error, later = (calibration_error(x.outcome, p) for p in (x.calibrated, x.refitted))
        off = x.calibrated - x.outcome
        table.add_row(
            x.task.name,
            f"{len(off)}",
            f"{x.outcome.mean():.3f}",
            f"{calibration_error(x.outcome, x.raw):.4f}",
            f"{error:.4f}",
            f"{later:.4f}",
            f"{equal_width_error(x.outcome, x.calibrated):.4f}",
            f"{chance_floor(x.calibrated):.4f}",
            f"{off.mean():+.4f} ± {standard_error(off, x.user):.4f}",
        )
        is_day = x.task.name.startswith("day_")
        asked = {"ece_days_max": error} if is_day else {"ece_max": error, "ece_max_refitted": later}
        figures |= {name: max(figures[name], value) for name, value in asked.items()}
    _SHOWN.print(table)
    return figures


def show_amounts(found: list[Amounts]) -> float:
    """The table of amounts; returns the largest distance of coverage from the level."""
    table = Table(title=f"Amounts on judged weeks, intervals of {LEVEL:.0%}")
    for heading in ("", "rows", "nothing", "coverage", "below", "above", "width", "by bin"):
        table.add_column(heading, justify="right")
    worst = 0.0
    for x in found:
        inside = x.is_inside
        number = bins(x.score, NUM_BINS)
        size = np.maximum(np.bincount(number, minlength=NUM_BINS), 1)
        by_bin = np.bincount(number, inside, NUM_BINS) / size
        table.add_row(
            x.task.name,
            f"{len(inside)}",
            f"{(x.outcome == 0).mean():.3f}",
            f"{inside.mean():.4f} ± {standard_error(inside.astype(float), x.user):.4f}",
            f"{(x.outcome < x.low).mean():.4f}",
            f"{(x.outcome > x.high).mean():.4f}",
            f"{(x.high - x.low).mean():.4g}",
            " ".join(f"{share:.2f}" for share in by_bin),
        )
        assert np.all((x.low <= x.score) & (x.score <= x.high)), x.task.name
        worst = max(worst, abs(float(inside.mean()) - LEVEL))
    _SHOWN.print(table)
    return worst


def compared(matured: Matured) -> None:
    """Other ways to calibrate: by users, by weeks, and on the judged weeks."""
    for title, parts in _comparisons(matured).items():
        table = Table(title=f"{title}: ECE, log loss beyond that of the best, change of AUC (1e-4)")
        for heading in ("", *KINDS):
            table.add_column(heading, justify="right")
        for task_name, folds in parts.items():
            table.add_row(task_name, *_cells(folds))
        _SHOWN.print(table)


Fold = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # outcome and forecast: fit, judge


def _comparisons(matured: Matured) -> dict[str, dict[str, list[Fold]]]:
    found: dict[str, dict[str, list[Fold]]] = {"users": {}, "weeks": {}, "judged weeks": {}}
    first = np.unique(matured.origin)
    middle = int(first[first < matured.first_judged][2])
    is_first = in_first_half(matured.user.astype(str).astype(object))
    for task in (task for task in matured.tasks if task.is_binary):
        fit, early = matured.fitted_on(task), matured.fitted_on(task, by=middle)
        late = fit & (matured.origin >= middle)

        def fold(a: np.ndarray, b: np.ndarray, name: str = task.name) -> Fold:
            said, came = matured.forecasts[name], matured.outcomes[name]
            return came[a], said[a], came[b], said[b]

        found["users"][task.name] = [
            fold(fit & is_first, fit & ~is_first),
            fold(fit & ~is_first, fit & is_first),
        ]
        if early.any() and late.any():
            found["weeks"][task.name] = [fold(early, late)]
        found["judged weeks"][task.name] = [fold(fit, matured.judged_on(task))]
    return found


def _cells(folds: list[Fold]) -> list[str]:
    figures = []
    for kind in KINDS.values():
        by_fold = []
        for fitted_outcome, fitted, outcome, said in folds:
            mapped: Map = kind(fitted_outcome, fitted)
            calibrated = mapped(said)
            before, after = auc(outcome, said), auc(outcome, calibrated)
            by_fold.append(
                (
                    calibration_error(outcome, calibrated),
                    log_loss(outcome, calibrated),
                    (after or 0) - (before or 0),
                )
            )
        figures.append(np.mean(by_fold, axis=0))
    least = min(loss for _, loss, _ in figures)
    return [
        f"{error:.4f} {(loss - least) * 1e4:+.1f} {change * 1e4:+.0f}"
        for error, loss, change in figures
    ]


def plot(found: list[Chances], path: Path) -> None:
    """Reliability of every binary task, with 95% intervals over users."""
    columns = 3
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(3.4 * columns, 3.2 * rows), layout="constrained")
    for place, x in enumerate(found):
        axes = figure.add_subplot(rows, columns, place + 1)
        curve = reliability(x.outcome, x.calibrated, x.user.astype(str).tolist())
        top = 1.05 * float(max(curve.forecast.max(), curve.outcome.max()))
        axes.plot([0, top], [0, top], color="0.7", linewidth=1)
        axes.errorbar(curve.forecast, curve.outcome, curve.half_width, fmt="o", markersize=4)
        axes.set_title(f"{x.task.name}: ECE {calibration_error(x.outcome, x.calibrated):.4f}")
        axes.set_xlabel("forecast")
        axes.set_ylabel("came true")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print the tables and, last, one JSON line."""
    made = argparse.ArgumentParser(
        prog="benchmarks.calibration", description=__doc__.split("\n")[0]
    )
    made.add_argument("--plot", type=Path, help="write reliability curves to this PNG")
    made.add_argument("--compare", action="store_true", help="other calibrators beside ours")
    made.add_argument(
        "--world", choices=("complete_journey", "fantasy_sports"), default="complete_journey"
    )
    made.add_argument("--users", type=int, default=8000, help="of the made-up platform")
    made.add_argument("--epochs", type=int, default=2, help="of its training")
    arguments = made.parse_args()
    is_real = arguments.world == "complete_journey"
    matured = complete_journey() if is_real else made_up(arguments.users, arguments.epochs)
    if arguments.compare:
        compared(matured)
    found = list(judged(matured))
    chances = [x for x in found if isinstance(x, Chances)]
    figures = show_chances(chances)
    figures["coverage_gap_max"] = show_amounts([x for x in found if isinstance(x, Amounts)])
    if arguments.plot:
        plot(chances, arguments.plot)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
