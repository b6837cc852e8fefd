"""What the game day's gym tells LUMOS; on its own, for every task of Airflow imports it."""

from lumos.config import EvaluationConfig, Recipe
from tests.gym.gym_world import recipe as gym


def recipe() -> Recipe:
    """The gym, whose platform says when a check-in landed; models are promoted as they come."""
    fields = gym.recipe_of_two_mornings().model_dump()
    for table in fields["raw"]:
        if table["name"] == "checkins":
            table["columns"] = {**table["columns"], "landed_on": "date"}
            table["landed_on"] = "landed_on"
    fields["evaluation"] = EvaluationConfig(
        num_origins=2, days_between_origins=7, margin=1, baseline_margin=1
    ).model_dump()
    fields["training"]["epochs"] = 20
    return Recipe.model_validate(fields)
