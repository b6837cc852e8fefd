"""Names of all monitors: rows of ``metrics``, sections of the runbook, anchors of the pages."""

from typing import Final

TABLES: Final = "tables"
FORECASTS: Final = "forecasts"

# Each name belongs to one half, so that neither half wipes the other's rows.
OF: Final = {
    TABLES: (
        "freshness",
        "volume",
        "rejected_rows",
        "late_rows",
        "schema",
        "drift_psi",
        "drift_ks",
    ),
    FORECASTS: (
        "publication_freshness",
        "prediction_psi",
        "prediction_ks",
        "matured_auc",
        "matured_ece",
        "matured_wape",
        "matured_loss_vs_baseline",
    ),
}
# How each half stands in the ledger.
ENTRIES: Final = {half: f"monitor_{half}" for half in OF}
MONITORS: Final[tuple[str, ...]] = (*OF[TABLES], *OF[FORECASTS])
RUNBOOK: Final = "/lumos/runbook"


def runbook_link(name: str) -> str:
    """Where the runbook says what to do about a monitor, such as ``/lumos/runbook#monitor-volume``.

    Raises:
        ValueError: There is no such monitor.
    """
    if name not in MONITORS:
        msg = f"no monitor is named {name!r}; there are {', '.join(MONITORS)}"
        raise ValueError(msg)
    return f"{RUNBOOK}#monitor-{name.replace('_', '-')}"
