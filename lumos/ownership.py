"""Whose tables a lake holds under a recipe's name: two platforms would overwrite each other's days.

A platform is the recipe's name, its dataset and its time zone; they are kept beside the tables, in
``LAKE/NAME/platform.json``, in the tags of the registered model, and in the pointer of each store.
SELECTs are no part of it: a platform may change its own. A lake, model or store from before this
was kept belongs to the first that comes.
"""

from lumos.config import Config, Name, Recipe
from lumos.verbs import BadInput


class Platform(Config):
    """Who writes under a recipe's name."""

    dataset: Name
    timezone: str

    @classmethod
    def of(cls, recipe: Recipe) -> "Platform":
        """The recipe's."""
        return cls(dataset=recipe.dataset, timezone=recipe.timezone)

    def __str__(self) -> str:
        return f"dataset {self.dataset}, time zone {self.timezone}"

    def refuse_other(self, owner: "Platform | None", what: str) -> None:
        """Refuse what is another platform's; without an owner it is nobody's.

        Args:
            owner: Whose it is.
            what: Named in the message, with its place.

        Raises:
            BadInput: It is another's.
        """
        if owner not in (None, self):
            msg = (
                f"{what} belongs to another platform ({owner}), not to this one ({self}). Give "
                "this recipe a name of its own"
            )
            raise BadInput(msg)
