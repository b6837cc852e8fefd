import json
import logging
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import lumos.cli
from lumos.job import MARK, Job, VerbFailed, digest, find_end, main, pack, run

NASTY = ["it's", 'a "b"', "$(rm -rf /)", "`id`", "a\nb\r\n\x0b\u2028c", "{{job.id}}", "{{{", "\\{{"]
TEXT = st.text(st.characters(exclude_categories=[])) | st.sampled_from(NASTY)


@given(st.lists(TEXT, min_size=1), st.dictionaries(st.text(), TEXT))
@example(["x" * 10_000], {})
def test_whatever_is_packed_arrives_exactly_and_holds_nothing_to_replace(arguments, environment):
    job = Job.model_construct(arguments=tuple(arguments), environment=environment)
    packed = pack(job)
    assert "{{" not in packed
    assert packed.isascii()
    assert packed.isprintable()
    assert json.loads(packed) == {"arguments": arguments, "environment": environment}


@pytest.fixture
def verb(monkeypatch):
    """Let ``lumos`` be a function of its arguments."""

    def replace(function):
        monkeypatch.setattr(lumos.cli, "main", function)
        monkeypatch.setattr(logging.getLogger(), "handlers", [])
        monkeypatch.setattr(sys, "argv", ["lumos", pack(Job(arguments=("score", "--date=x")))])

    return replace


def test_a_success_says_its_report_and_returns(verb, capsys):
    def score(arguments):
        sys.stdout.write('a library\'s line\n{"verb": "score"}\n')
        return 0

    verb(score)
    assert main() is None
    end = find_end(capsys.readouterr().out + "a line after the last\n", ["score", "--date=x"])
    assert (end.code, end.last_line) == (0, '{"verb": "score"}')


def test_a_failure_raises_what_it_says_so_that_databricks_cannot_take_it_for_a_success(verb):
    def score(arguments):
        logging.getLogger("lumos").error("no rows")
        return 2

    verb(score)
    with pytest.raises(VerbFailed) as raised:
        main()
    end = find_end(f"VerbFailed: {raised.value}", ["score", "--date=x"])
    assert (end.code, end.last_error) == (2, "no rows")


def test_arguments_that_argparse_refuses_are_bad_input():
    assert run(Job(arguments=("score", "--no-such-flag"))).code == 2


def test_the_end_of_another_verb_or_half_of_one_is_not_ours():
    end = {"job": digest(["score"]), "code": 0, "last_line": "{}", "last_error": ""}
    line = f"{MARK} {json.dumps(end)}"
    assert find_end(line, ["score"]) is not None
    assert find_end(f"noise {line} noise", ["score"]) is not None
    assert find_end(line, ["publish"]) is None
    assert find_end(line[:-3], ["score"]) is None
    assert find_end("", ["score"]) is None


@pytest.mark.parametrize("name", ["LUMOS_LAKE", "PATH"])
def test_variables_are_set_before_the_verb_starts(verb, monkeypatch, name):
    import os

    seen = []
    verb(lambda arguments: seen.append(os.environ[name]) or 0)
    monkeypatch.setenv(name, "before")
    job = Job(arguments=("score", "--date=x"), environment={name: "given"})
    monkeypatch.setattr(sys, "argv", ["lumos", pack(job)])
    main()
    assert seen == ["given"]
