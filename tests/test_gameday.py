"""The game day itself is run by hand, for minutes; here, that what it declares hangs together."""

import json

import pytest

from benchmarks._gameday_play import sentence
from benchmarks._gameday_recipe import recipe
from benchmarks._gameday_system import Told
from benchmarks._gameday_world import MAKING
from benchmarks.gameday import FAULTS
from lumos.recipes import load
from tests.runbook import commands, sections


def test_there_are_fifteen_faults_each_with_states_that_are_made():
    assert len({fault.name for fault in FAULTS}) == 15
    assert {state for fault in FAULTS for state in (fault.begins, fault.ends)} <= set(MAKING)


def test_every_alert_that_is_waited_for_has_its_section():
    told = {fault.alert.name for fault in FAULTS if isinstance(fault.alert, Told)}
    assert told <= set(sections())


def test_commands_are_those_of_blocks_and_of_backticks():
    found = commands(sections()["publish"])
    assert {"lumos score --date $DATE --force", "lumos publish --date $DATE"} <= set(found)


def test_airflow_finds_the_recipe_by_its_name():
    assert load(f"{recipe.__module__}:{recipe.__name__}") == recipe()


@pytest.mark.parametrize("said", ["the triggerer is unhealthy", ""])
def test_what_was_said_is_kept_whole_where_it_is_no_message_of_slacks(said):
    assert sentence(said) == said


def test_the_sentences_of_a_message_are_found():
    long = "it ended without a word: killed, its host lost, or marked failed"
    assert sentence(json.dumps({"blocks": [{"text": long}, {"text": "short"}]})) == long
