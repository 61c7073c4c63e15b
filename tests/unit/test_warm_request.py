"""The door of the warm process: what is a request and what is not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tessera_trainer.warm_request import Ask, Clear, Prove, Run, parse_request, unfit_argv

RUN = {"do": "run", "argv": ["a.py"], "env": {"A": "1"}, "cwd": "/", "slot": "3", "processors": [0, 1]}


def parse(body: object, descriptors: tuple[int, ...] = ()) -> object:
    return parse_request(json.dumps(body).encode(), descriptors)


def test_each_request_is_read_whole() -> None:
    read = [
        parse(RUN, (7, 8, 9)),
        parse({"do": "clear", "seconds": 2}),
        parse({"do": "proof", "seconds": 3, "request": {"device": "cpu"}}),
        parse({"do": "ready"}),
        parse({"do": "list"}),
    ]
    assert read == [
        Run(("a.py",), {"A": "1"}, "/", 3, frozenset({0, 1}), (7, 8, 9)),
        Clear(2.0),
        Prove({"device": "cpu"}, 3.0),
        Ask.READY,
        Ask.LIST,
    ]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ([], "a request is a JSON object"),
        ({"do": "dance"}, "unknown request 'dance'"),
        ({"do": "clear", "seconds": 1e9}, "seconds is"),
        ({"do": "clear", "seconds": "1"}, "seconds is"),
        ({"do": "proof", "seconds": 1}, "needs a request"),
        ({**RUN, "argv": "a.py"}, "argv is not"),
        ({**RUN, "env": {"A": 1}}, "env is not"),
        ({**RUN, "cwd": None}, "cwd is not"),
        ({**RUN, "slot": "-1"}, "slot"),
        ({**RUN, "slot": "99999"}, "slot"),
        ({**RUN, "processors": ["x"]}, "processors is not"),
        (RUN, "0 descriptors came"),
    ],
)
def test_what_is_no_request_is_refused_by_name(body: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse(body)


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (("train.py", "-u"), ""),
        (("-m", "train"), ""),
        ((), "no program is named"),
        (("-m",), "no program is named"),
        (("-u", "train.py"), "the interpreter's option -u acts only at its start"),
    ],
)
def test_options_of_the_interpreter_cannot_be_forked(argv: tuple[str, ...], reason: str) -> None:
    assert unfit_argv(argv) == reason
