import asyncio
import threading

import pytest
from lumos_airflow.triggers.threads import in_thread


def test_a_cancel_amid_a_call_still_says_that_a_user_asked_for_it():
    entered, leave = threading.Event(), threading.Event()

    def call() -> None:
        entered.set()
        leave.wait(60)

    async def wait() -> tuple:
        try:
            await in_thread(call)
        except asyncio.CancelledError as error:
            return error.args
        raise AssertionError

    async def act() -> tuple:
        waiting = asyncio.ensure_future(wait())
        while not entered.is_set():
            await asyncio.sleep(0.01)
        waiting.cancel("a user's action")
        try:
            return await waiting
        finally:
            leave.set()

    assert asyncio.run(act()) == ("a user's action",)


def test_a_call_gives_its_answer_and_its_error():
    assert asyncio.run(in_thread(int, "7")) == 7
    with pytest.raises(ValueError, match="invalid literal"):
        asyncio.run(in_thread(int, "seven"))
