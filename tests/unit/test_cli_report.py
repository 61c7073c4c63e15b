"""The report: well-formed, self-contained, one axis, and right for runs of every kind."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tessera_api.incident import Incident
from tessera_api.journal import Event, EventName, StepLine
from tessera_api.training_run_status import SpentSeconds, TrainingRunStatus
from tessera_cli.report import page, write_report
from tessera_cli.report_chart import MOST_POINTS, thinned
from tessera_cli.run_history import CommittedStep, Generation, RunHistory
from tessera_cli.svg import element, words
from tessera_cli.time_axis import TimeAxis
from tests.train.local_place import resolved_run

CAUSE = "node-0: <its> process & all"


def step(number: int, generation: int, loss: float = 2.0) -> StepLine:
    return StepLine(
        time=100.0 + number + 10 * generation,
        step=number,
        tokens=192 * number,
        loss=loss,
        tokens_per_second=1000.0,
        generation=generation,
        world_size=3,
    )


def history(
    steps: tuple[StepLine, ...] = (), lost: tuple[StepLine, ...] = (), incidents: tuple[Incident, ...] = ()
) -> RunHistory:
    numbers = sorted({line.generation for line in (*steps, *lost)})
    return RunHistory(
        resolved=resolved_run(Path("/place/tiny")),
        status=TrainingRunStatus(goodput="0.900"),
        steps=steps,
        lost=lost,
        incidents=incidents,
        generations=tuple(Generation(n, 100.0 + 10 * n, 108.0 + 10 * n, "node-0, node-1", 3, n > 1) for n in numbers),
        commits=tuple(CommittedStep(line.step, line.time, 0.5, 0.1) for line in steps if line.step % 2 == 0),
        events=(Event(time=100.0, name=EventName.COORDINATOR_STARTED),),
    )


def incident(next_step: float | None = 125.0) -> Incident:
    return Incident(
        number=1,
        cause=CAUSE,
        nodes=("node-0",),
        detected=118.0,
        generation_before=1,
        generation_after=2,
        next_step=next_step,
        highest_step_before=4,
        steps_lost=1,
    )


RECOVERED = history(
    steps=(step(1, 1), step(2, 1), step(3, 1), step(4, 2), step(5, 2)), lost=(step(4, 1),), incidents=(incident(),)
)


def drawing(text: str) -> ElementTree.Element:
    """The chart of a page; fails when it is not well-formed."""
    found = re.search(r"<svg.*?</svg>", text, re.DOTALL)
    assert found
    return ElementTree.fromstring(found[0])


def with_class(chart: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [one for one in chart.iter() if name in one.get("class", "").split()]


@pytest.mark.parametrize(
    "what",
    [
        history(),
        history(steps=(step(1, 1),)),
        history(steps=(step(1, 1, float("nan")),)),
        history(steps=(step(1, 1), step(2, 1, float("inf")), step(3, 1)), incidents=(incident(next_step=None),)),
        RECOVERED,
    ],
    ids=["empty", "one step", "only a non-finite loss", "going on after a non-finite loss", "recovered"],
)
def test_a_page_is_well_formed_and_asks_no_network(what: RunHistory) -> None:
    text = page(what)
    drawing(text)
    assert [address for address in re.findall(r'(?:src|href)="([^"]*)"', text) if not address.startswith("#")] == []
    assert not re.search(r"https?:|url\(|@import|fetch\(", text)


def test_text_from_outside_is_escaped() -> None:
    text = page(RECOVERED)
    assert CAUSE not in text
    assert "node-0: &lt;its&gt; process &amp; all" in text


def test_every_generation_is_a_band_and_every_incident_a_line_with_its_row() -> None:
    text = page(RECOVERED)
    chart = drawing(text)
    assert [one.findtext("title", "").partition(":")[0] for one in with_class(chart, "band")] == [
        "generation 1",
        "generation 2",
    ]
    assert [one.get("href") for one in chart.iter("a")] == ["#incident-1"]
    assert '<tr id="incident-1">' in text


def test_utilisation_is_said_by_both_counts_and_with_its_peak() -> None:
    last = step(1, 1).model_copy(update={"mfu": 0.5, "numbers": {"mfu_6nd": 0.75}})
    peak = "0.08 TFLOP/s a device: measured on cpu: best of 90 fp32 products of 512 x 512"
    notes = tuple(Event(time=1.0, name=EventName.NOTE, message=f"Peak: {said}") for said in ("another", peak))
    text = page(replace(history(steps=(last,)), events=notes))
    shown = re.sub(r"<[^>]+>", " ", text)
    assert re.search(r"MFU \(last step\)\s+0\.500\s+MFU by 6ND\s+0\.750\s", shown)
    assert f"Peak: {peak}." in shown


def test_lost_steps_are_drawn_apart_from_those_that_count() -> None:
    chart = drawing(page(RECOVERED))
    loss = [one for one in with_class(chart, "loss") if one.tag in ("polyline", "circle")]
    assert [("lost" in one.get("class", ""), one.tag) for one in loss] == [
        (True, "circle"),
        (False, "polyline"),
        (False, "polyline"),
    ]


def test_a_loss_that_is_no_number_is_marked_and_bends_no_scale() -> None:
    chart = drawing(page(history(steps=(step(1, 1), step(2, 1, float("nan")), step(3, 1)))))
    assert [one.findtext("title") for one in with_class(chart, "nonfinite")] == ["step 2: loss nan"]
    assert "nan" not in "".join(one.get("points", "") for one in chart.iter())


def test_everything_stands_on_one_time_axis() -> None:
    chart = drawing(page(RECOVERED))
    [mark] = with_class(chart, "incident")
    [shade] = with_class(chart, "recovery")
    assert mark.get("x1") == shade.get("x")
    second = with_class(chart, "band")[1]
    first_step_after = next(
        one for one in with_class(chart, "rate") if one.tag == "polyline" and len(one.get("points", "").split()) == 2
    )
    assert float(second.get("x", "")) < float(first_step_after.get("points", "").split(",")[0])


def test_the_numbers_and_the_checkpoints_stand_in_the_page() -> None:
    text = page(RECOVERED)
    numbers = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    assert numbers == {
        "Steps": "5 / 20",
        "Loss": "2.0000",
        "Tokens": "960",
        "Tokens/s (median)": "1.0k",
        "Goodput": "0.900",
        "Restarts": "1",
        "Incidents": "1",
        "Steps lost": "1",
        "Checkpoints": "2",
        "MFU (last step)": "-",
        "MFU by 6ND": "-",
    }
    assert "<td>4</td><td>24s</td><td>0.50 s</td><td>0.10 s</td>" in text


def test_a_report_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    write_report(path, history())
    assert path.read_text().startswith("<!doctype html>")


def test_a_long_line_keeps_its_extremes() -> None:
    points = [(float(x), 0.0) for x in range(20_000)]
    points[12_345] = (12_345.0, 99.0)
    kept = thinned(points)
    assert len(kept) <= MOST_POINTS + 2
    assert (12_345.0, 99.0) in kept


def test_a_long_pause_is_cut_out_of_the_axis() -> None:
    axis = TimeAxis([0.0, 50.0, 100.0, 90_100.0, 90_200.0], left=0.0, right=1014.0)
    assert [(cut.first, cut.last) for cut in axis.cuts] == [(100.0, 90_100.0)]
    assert [axis.x(time) for time in (0.0, 100.0, 90_100.0, 90_200.0)] == pytest.approx([0.0, 500.0, 514.0, 1014.0])


def test_positions_grow_with_time() -> None:
    axis = TimeAxis([0.0, 10.0, 5_000.0, 5_010.0, 99_000.0, 99_500.0], left=0.0, right=1000.0)
    positions = [axis.x(float(time)) for time in range(0, 99_500, 250)]
    assert positions == sorted(positions)


def test_an_element_escapes_its_attributes_and_words() -> None:
    assert words("text", "a<b", class_="x", data_words='"') == '<text class="x" data-words="&quot;">a&lt;b</text>'
    assert element("line", x1=1.0, stroke_width=2.25) == '<line x1="1" stroke-width="2.2"/>'


def test_the_bars_of_the_waterfall_follow_each_other_and_lost_work_has_its_price() -> None:
    spent = (("lost_work", 100), ("compute", 800), ("spare", 100))
    seconds = tuple(SpentSeconds(cause=cause, seconds=amount) for cause, amount in spent)
    status = TrainingRunStatus(node_seconds=seconds, cost="12.00", lost_work_cost="1.20")

    shown = page(replace(history(), status=status))

    bars = re.findall(r'class="bar (\w+)" style="margin-left:([\d.]+)%;width:([\d.]+)%"', shown)
    assert bars == [("good", "0.00", "80.00"), ("bad", "80.00", "10.00"), ("other", "90.00", "10.00")]
    assert "Cost so far: 12.00; of work that was lost: 1.20." in shown
    assert "Not counted yet" in page(history())
