"""LUMOS forecasts each user's whole activity on each of the next days."""

__version__ = "0.1.0"
