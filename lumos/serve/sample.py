"""Who is asked where asking everybody would add cost and no certainty."""

import numpy as np

from lumos.accio.chance import hash_users, uniform
from lumos.accio.users import Users
from lumos.serve.inputs import Inputs
from lumos.verbs import BadInput, Request

# The standard error of an AUC is then below .001.
_MOST_USERS = 200_000
_SAMPLE = 6  # salt of this stream of chance; accio.chance names the others


def sample(request: Request, pins: Inputs) -> Users:
    """All users, or on a large platform a fixed sample of them, sorted by nothing but the files.

    Raises:
        BadInput: The table holds nobody.
    """
    table = pins.table(request)
    share = _MOST_USERS / max(table.num_users, 1)
    parts = []
    for users in table.users():
        is_in = uniform(hash_users(users.user_id), _SAMPLE) < share
        parts.append(users if is_in.all() else users.take(is_in))
    if not sum(len(part) for part in parts):
        msg = f"sequences for {request.date} hold no user; run `lumos aggregate` over more days"
        raise BadInput(msg)
    return Users.concat(parts)


def among(users: Users, ids: np.ndarray) -> Users:
    """Those of the users whose id is one of ``ids``."""
    return users.take(np.isin(users.user_id.astype(str), ids))
