"""What changed since the last days, and whether that is unusual. The verb is ``monitor``."""

from lumos.monitor.names import MONITORS, RUNBOOK, runbook_link

__all__ = ["MONITORS", "RUNBOOK", "runbook_link"]
