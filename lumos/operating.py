"""Options of a recipe that say how its platform is run: what is promised, refused, and kept."""

from pydantic import Field

from lumos.frozen import Config


class CalibrationConfig(Config):
    """What published numbers promise.

    Attributes:
        interval_level: Share of outcomes meant to lie in the interval of an amount.
        segment_tolerance: How far off a segment of users may be before ``lumos evaluate`` warns: a
            share of the outcomes expected of it, of a chance's rarer outcome.
    """

    interval_level: float = Field(default=0.9, gt=0, lt=1)
    segment_tolerance: float = Field(default=0.05, ge=0)


class QualityConfig(Config):
    """Limits of the data-quality suites."""

    max_quarantined_share: float = Field(default=0.01, ge=0, le=1)
    max_volume_change: float = Field(default=0.6, gt=0)
    usual_days: int = Field(default=28, ge=7)


class RetentionConfig(Config):
    """For how many days what was written stays; ``lumos maintain`` removes it afterwards.

    Days of rows count back from the newest business date, those of files from today. Activity,
    event context, users, experiments and `audit` stay for good. So does, whatever its age, what a
    version that is pinned within these days needs.

    Attributes:
        versions_days: Older versions of tables, and what the ledger pins by them.
        forecasts_days: `forecasts`, `shadows`, `what_ifs`, `embeddings`, `profiles`; at least a
            horizon and ``versions_days``, for forecasts are compared with what came true.
        scores_days: `scores`, their manifests and calibrators; at least as ``forecasts_days``.
        metrics_days: `metrics`, `histograms`, `quarantine`, and alerts that are resolved.
        models_days: MLflow's runs and model versions that have no alias, and their evaluations.
        reports_days: Pages below ``LUMOS_HOME/reports``.
        states_days: States of trainings that nothing has gone on with, and scratch folders.
    """

    versions_days: int = Field(default=30, ge=8)
    forecasts_days: int = Field(default=90, ge=1)
    scores_days: int = Field(default=180, ge=1)
    metrics_days: int = Field(default=180, ge=60)
    models_days: int = Field(default=365, ge=30)
    reports_days: int = Field(default=180, ge=1)
    states_days: int = Field(default=14, ge=7)
