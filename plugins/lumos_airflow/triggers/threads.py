"""Calls that block, made by a trigger without holding up the triggerer."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from asgiref.sync import sync_to_async

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a call in a thread; a cancel ends the wait at once and keeps its message.

    By that message Airflow tells the action of a user, of which ``on_kill`` must hear, from its
    own end. ``sync_to_async`` raises another cancel without it, so a run that was marked failed
    amid a call would go on, unseen.
    """
    # The default is one thread for all triggers: a slow API would stall every wait.
    call = sync_to_async(function, thread_sensitive=False)
    return await asyncio.shield(asyncio.ensure_future(call(*args, **kwargs)))
