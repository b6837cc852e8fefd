"""Who comes first to a recipe's name in a lake has it; see :mod:`lumos.ownership`."""

from lumos.config import Recipe
from lumos.delta import open_table
from lumos.ownership import Platform
from lumos.settings import Settings
from lumos.stored import file_system, read_bytes, write_bytes
from lumos.tables import table_uri
from lumos.verbs import BadInput


def claim(settings: Settings, recipe: Recipe) -> None:
    """See that the lake's tables under the recipe's name are its own, or nobody's yet.

    Raises:
        BadInput: They are those of another platform, or of another time zone.
        OSError: The lake cannot be read or written.
    """
    own = Platform.of(recipe)
    system, root = file_system(settings.lake)
    path = f"{root}/{recipe.name}/platform.json"
    data = read_bytes(system, path)
    owner = None if data is None else Platform.model_validate_json(data)
    if owner == own:
        return
    if owner is not None and open_table(table_uri(settings, recipe, "activity")) is not None:
        folder = f"{settings.lake}/{recipe.name}"
        remedy = (
            f"or, if it is the same platform and its days are to be cut anew, move {folder} away "
            "and aggregate again from the first day"
        )
        try:
            own.refuse_other(owner, f"{folder}")
        except BadInput as error:
            msg = f"{error}, {remedy}"
            raise BadInput(msg) from None
    write_bytes(system, path, own.model_dump_json().encode())
