"""What the gym tells LUMOS: its raw tables, its columns, its windows, its questions."""

from pathlib import Path

from lumos.config import (
    ActivityColumn,
    EvaluationConfig,
    EventColumn,
    ModelConfig,
    RawTable,
    Recipe,
    ScoringConfig,
    StaticColumn,
    Task,
    TrainingConfig,
)

HERE = Path(__file__).resolve().parent


def recipe() -> Recipe:
    """Who visits in the next ten days, and for how long?"""
    return Recipe(
        name="gym",
        description="Check-ins and purchases of a small gym",
        dataset="gym",
        sql=str(HERE / "sql"),
        timezone="Asia/Kolkata",
        country="IN",
        raw=(
            RawTable(
                name="checkins",
                role="fact",
                format="parquet",
                columns={
                    "member": "string",
                    "club": "string",
                    "entered_at": "timestamp",
                    "minutes": "double",
                    "is_class": "boolean",
                },
                user="member",
                happened_at="entered_at",
                key=("member", "entered_at"),
                non_negative=("minutes",),
            ),
            RawTable(
                name="purchases",
                role="fact",
                format="csv",
                columns={"member": "string", "bought_on": "date", "amount": "double"},
                user="member",
                happened_at="bought_on",
                non_negative=("amount",),
            ),
            RawTable(
                name="members",
                role="reference",
                format="csv",
                columns={
                    "member": "string",
                    "joined_on": "date",
                    "plan": "string",
                    "age": "double",
                },
            ),
            RawTable(
                name="timetable",
                role="reference",
                columns={
                    "day": "date",
                    "announced_on": "date",
                    "num_classes": "bigint",
                    "is_open_day": "boolean",
                },
                landed_on="announced_on",
            ),
        ),
        activity=(
            ActivityColumn(name="visited", kind="binary", unit="0 or 1"),
            ActivityColumn(name="took_class", kind="binary", unit="0 or 1"),
            ActivityColumn(name="minutes", kind="continuous", unit="minutes"),
            ActivityColumn(name="spend", kind="continuous", unit="INR"),
        ),
        active="visited",
        calendar=("monday", "tuesday", "saturday", "sunday", "holiday"),
        events=(
            EventColumn(name="num_classes", unit="classes"),
            EventColumn(name="open_day", unit="0 or 1"),
        ),
        static=(
            StaticColumn(name="plan", kind="categorical"),
            StaticColumn(name="age", kind="continuous", unit="years"),
        ),
        history_days=42,
        horizon_days=10,
        num_buckets=2,
        tasks=(
            Task(name="visit_10d", kind="any", column="visited", window_days=10),
            Task(name="visit_3d", kind="any", column="visited", window_days=3),
            Task(name="minutes_10d", kind="sum", column="minutes", window_days=10),
        ),
        model=ModelConfig(
            d_model=16,
            num_encoder_layers=1,
            num_decoder_layers=1,
            num_heads=2,
            d_ff=32,
            d_user=16,
            d_event=8,
            d_static=8,
        ),
        training=TrainingConfig(epochs=60, batch_size=32, learning_rate=5e-3),
        evaluation=EvaluationConfig(
            num_origins=2,
            days_between_origins=7,
            baseline_margin=0.5,  # ninety members teach a forecaster little
        ),
        scoring=ScoringConfig(active_within_days=120, num_shards=3, batch_size=32),
    )


def recipe_without_events() -> Recipe:
    """The same gym on a platform without a timetable: no event table at all."""
    whole = recipe()
    fields = whole.model_dump()
    fields |= {
        "name": "gym_without_events",
        "sql": str(HERE / "sql_without_events"),
        "events": (),
        "raw": [table for table in fields["raw"] if table["name"] != "timetable"],
    }
    return Recipe.model_validate(fields)


def recipe_of_two_mornings() -> Recipe:
    """The same gym; a Saturday may be published though a single Friday tells little of it."""
    fields = recipe().model_dump()
    fields["publishing"]["max_drift"] = 0.6
    return Recipe.model_validate(fields)
