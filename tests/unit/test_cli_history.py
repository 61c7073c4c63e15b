"""What a run directory tells: repeated steps, generations, commits, and what is shown of them."""

from __future__ import annotations

import json
from pathlib import Path

from tessera_api.exit_codes import ExitCode
from tessera_api.journal import Event, EventName, StepLine
from tessera_api.run_directory import RunDirectory
from tessera_cli.live_lines import LiveLines
from tessera_cli.progress import Pace, step_line, told
from tessera_cli.run_history import CommittedStep, Generation, generations, read_history, read_incidents, told_twice
from tessera_cli.shown_numbers import amount, span
from tessera_cli.summary import summary
from tests.train.local_place import resolved_run


def step(number: int, generation: int = 1, time: float = 0.0, loss: float = 2.0, world_size: int = 3) -> StepLine:
    return StepLine(
        time=time or float(number),
        step=number,
        tokens=192 * number,
        loss=loss,
        tokens_per_second=1000.0,
        generation=generation,
        world_size=world_size,
    )


def event(name: EventName, time: float, generation: int = 1, message: str = "", **numbers: float) -> Event:
    return Event(time=time, name=name, generation=generation, message=message, numbers=numbers)


INCIDENT = {
    "number": 1,
    "cause": "node-0: its process has ended",
    "nodes": ["node-0"],
    "detected": 12.4,
    "generation_before": 1,
    "generation_after": 2,
    "opened": 13.0,
    "next_step": 14.0,
    "highest_step_before": 3,
    "first_step_after": 3,
    "steps_lost": 1,
    "signal_time": 12.0,
}


def directory_of(root: Path) -> RunDirectory:
    """A run that lost a node: step 3 was computed twice."""
    directory = RunDirectory(root)
    directory.incidents.mkdir(parents=True)
    (directory.incidents / "0001.json").write_text(json.dumps(INCIDENT, indent=1))
    lines = [step(1), step(2), step(3), step(3, 2, 14.0, 1.5, 2), step(4, 2, 15.0, 1.0, 2)]
    directory.metrics.write_text("".join(line.model_dump_json() + "\n" for line in lines))
    events = [
        event(EventName.GENERATION_OPENED, 0.5, 1, "node-0, node-1, node-2"),
        event(EventName.COMMITTED, 2.5, 1, "step 2", step=2.0, seconds=0.5, stall_seconds=0.1),
        event(EventName.GENERATION_OVER, 12.4, 1),
        event(EventName.GENERATION_OPENED, 13.0, 2, "node-1, node-2"),
    ]
    directory.events.write_text("".join(one.model_dump_json() + "\n" for one in events))
    directory.status.write_text('{"phase": "Running", "goodput": "0.900"}')
    return directory


def test_of_a_repeated_step_the_line_of_the_highest_generation_counts() -> None:
    steps, lost = told_twice([step(1), step(2), step(2, 2), step(3, 2)])
    assert steps == (step(1), step(2, 2), step(3, 2))
    assert lost == (step(2),)


def test_a_generation_ends_with_its_end_or_with_the_next_one() -> None:
    events = [
        event(EventName.GENERATION_OPENED, 1.0, 1, "a, b"),
        event(EventName.GENERATION_OVER, 4.0, 1),
        event(EventName.GENERATION_OPENED, 5.0, 2, "a"),
        event(EventName.GENERATION_OPENED, 9.0, 3, "a, b"),
    ]
    assert generations(events, [step(1), step(2, 3, 11.0, world_size=2)], ()) == (
        Generation(1, 1.0, 4.0, "a, b", 3, True),
        Generation(2, 5.0, 9.0, "a", None, True),
        Generation(3, 9.0, 11.0, "a, b", 2, True),
    )


def test_a_directory_is_read_whole(tmp_path: Path) -> None:
    history = read_history(directory_of(tmp_path / "tiny"), resolved_run(tmp_path / "tiny"))
    assert [line.step for line in history.steps] == [1, 2, 3, 4]
    assert history.lost == (step(3),)
    assert history.commits == (CommittedStep(2, 2.5, 0.5, 0.1),)
    assert [(one.number, one.planned) for one in history.generations] == [(1, False), (2, True)]
    assert (history.restarts, history.steps_lost) == (1, 1)


def test_a_run_that_has_only_begun_is_empty_not_wrong(tmp_path: Path) -> None:
    history = read_history(RunDirectory(tmp_path / "tiny"), resolved_run(tmp_path / "tiny"))
    assert (history.steps, history.incidents, history.generations) == ((), (), ())


def test_a_torn_incident_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "0001.json").write_text('{"number": 1, "cau')
    assert read_incidents(tmp_path) == ()


def test_the_summary_says_what_happened_and_where_the_results_are(tmp_path: Path) -> None:
    directory = directory_of(tmp_path / "tiny")
    history = read_history(directory, resolved_run(tmp_path / "tiny"))
    assert summary(history, directory, ExitCode.STOPPED, "stopped at step 4: interrupt") == [
        "run tiny is stopped: stopped at step 4: interrupt",
        "  steps    4/20, 768 tokens, 1.0k tokens/s (median)",
        "  loss     1.0000",
        "  commit   step 2",
        "  goodput  0.900, 1 steps lost",
        "  incident 1: node-0: its process has ended, detected after 0.40 s, next step 1.60 s after it was detected,"
        " 1 steps lost",
        f"  report   {directory.report}",
    ]


def test_live_lines_come_once_and_only_when_they_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = LiveLines(path, StepLine)
    assert lines.new() == []
    text = step(1).model_dump_json()
    path.write_text(f"{text}\n{text[:10]}")
    assert lines.new() == [step(1)]
    with open(path, "a") as file:
        file.write(f"{text[10:]}\n")
    assert (lines.new(), lines.new()) == ([step(1)], [])


def test_the_time_left_forgets_the_pause_between_two_generations() -> None:
    pace = Pace(total=10)
    for line in (step(1, time=1.0), step(2, time=2.0), step(2, 2, time=60.0)):
        pace.add(line)
    assert pace.left() is None
    pace.add(step(3, 2, time=62.0))
    assert pace.left() == 14.0


def test_a_step_is_shown_in_one_line() -> None:
    assert step_line(step(4), 20, 192.0, "3/4") == (
        "step 4/20  loss 2.0000  1.0k tokens/s  ETA 3m12s  nodes 3/4  generation 1 (world size 3)"
    )


def test_every_event_has_its_words_or_none() -> None:
    shown = {name: told(Event(time=1.0, name=name, node="node-1", message="{why}")) for name in EventName}
    assert shown[EventName.NODE_LOST] == "node-1: lost: {why}"
    assert shown[EventName.PHASE] is None
    assert set(shown) == set(EventName)


def test_numbers_are_short() -> None:
    assert [span(seconds) for seconds in (0, 58, 240, 11520, 93600)] == ["0s", "58s", "4m", "3h12m", "1d2h"]
    assert [amount(value) for value in (42.0, 87.12, 12400.0, 1.9e6, float("nan"))] == [
        "42",
        "87.1",
        "12.4k",
        "1.9M",
        "nan",
    ]
