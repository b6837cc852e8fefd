"""The one file that Airflow loads from this folder by itself; the rest is imported by name."""

from airflow.plugins_manager import AirflowPlugin
from lumos_airflow.timetables import WholeDays


class LumosPlugin(AirflowPlugin):
    """What Airflow must know by name: a timetable that is not its own."""

    name = "lumos"
    timetables = (WholeDays,)
