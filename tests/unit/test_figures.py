"""What a benchmark prints becomes a row of RESULTS.md."""

from __future__ import annotations

import json

from figures import BEGIN, COLUMNS, END, Figure, Origin, recorded

ORIGIN = Origin("2026-11-26", "order.py", "2 cores")
TAIL = " 2026-11-26 | `order.py` | 2 cores |\n"


def line(name: str = "detected", **changes: object) -> str:
    """A line as a benchmark prints it."""
    said = {"name": name, "value": 0.5, "spread": [0.4, 0.75], "unit": "s", "goal": 0.8, "holds": True, "quick": False}
    return json.dumps(said | changes)


def figure(name: str = "detected", **changes: object) -> Figure:
    """The figure of such a line."""
    parsed = Figure.parse(line(name, **changes))
    assert parsed is not None
    return parsed


def document(*rows: str) -> str:
    """A results page with these rows."""
    return f"# Results\n\n{BEGIN}{COLUMNS}{''.join(rows)}{END}after\n"


def test_a_figure_is_a_row_with_its_goal() -> None:
    assert figure().row(ORIGIN) == "| detected | 0.5 s | 0.4 to 0.75 | 0.8 s | yes |" + TAIL


def test_a_missed_goal_stands_out() -> None:
    assert figure(value=1.25, holds=False).row(ORIGIN) == "| detected | 1.25 s | 0.4 to 0.75 | 0.8 s | **no** |" + TAIL


def test_a_figure_without_a_promise_has_neither_goal_nor_verdict() -> None:
    assert figure(goal=None, holds=None, spread=None).row(ORIGIN) == "| detected | 0.5 s |  |  |  |" + TAIL


def test_a_goal_may_be_a_sentence() -> None:
    assert (
        figure(goal="<= 0.8 median, 1.5 max").row(ORIGIN)
        == "| detected | 0.5 s | 0.4 to 0.75 | <= 0.8 median, 1.5 max | yes |" + TAIL
    )


def test_what_is_no_figure_is_passed_over() -> None:
    assert [Figure.parse(text) for text in ("starting\n", '{"step": 3}\n', "\n", "{a brace\n")] == [None] * 4


def test_recording_replaces_the_row_of_the_same_name_in_its_place() -> None:
    before = document(figure("detected").row(ORIGIN), figure("next step").row(ORIGIN))
    after = recorded(before, [figure("detected", value=0.25)], ORIGIN)
    assert after == document(figure("detected", value=0.25).row(ORIGIN), figure("next step").row(ORIGIN))


def test_recording_appends_what_is_new() -> None:
    assert recorded(document(), [figure("a"), figure("b")], ORIGIN) == document(
        figure("a").row(ORIGIN), figure("b").row(ORIGIN)
    )
