"""The last words of a start: what was reached, what happened on the way, where the results are. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from tessera_api.exit_codes import ExitCode
from tessera_api.incident import Incident
from tessera_api.run_directory import RunDirectory
from tessera_cli import shown_numbers
from tessera_cli.run_history import RunHistory


def summary(history: RunHistory, directory: RunDirectory, code: ExitCode, reason: str) -> list[str]:
    """Lines for people."""
    resolved = history.resolved
    words = {ExitCode.DONE: "is complete", ExitCode.STOPPED: "is stopped"}
    lines = [f"run {resolved.name} {words.get(code, 'has failed')}: {reason}"]
    last = history.steps[-1] if history.steps else None
    if last is not None:
        rate = history.tokens_per_second
        speed = f", {shown_numbers.amount(rate)} tokens/s (median)" if rate is not None else ""
        tokens = shown_numbers.amount(last.tokens)
        lines.append(f"  steps    {last.step}/{resolved.total_steps}, {tokens} tokens{speed}")
        lines.append(f"  loss     {shown_numbers.loss(last.loss)}")
    if history.commits:
        lines.append(f"  commit   step {history.commits[-1].step}")
    if history.status.goodput is not None:
        lines.append(f"  goodput  {history.status.goodput}, {history.steps_lost} steps lost")
    for incident in history.incidents:
        lines.append(f"  incident {incident.number}: {', '.join(incident_words(incident))}")
    if code is ExitCode.DONE and directory.export.exists():
        lines.append(f"  export   {directory.export}")
    lines.append(f"  report   {directory.report}")
    return lines


def incident_words(incident: Incident) -> Iterator[str]:
    """Cause and times of one incident."""
    if incident.failure is None:
        yield incident.cause
    else:
        node = f"{incident.node}: " if incident.node is not None else ""
        yield f"{node}{incident.failure.value}: {incident.words or incident.cause}"
    if incident.signal_time is not None:
        yield f"detected after {shown_numbers.seconds(incident.detected - incident.signal_time)}"
    if incident.next_step is None:
        yield "no step since"
        return
    yield f"next step {shown_numbers.seconds(incident.next_step - incident.detected)} after it was detected"
    yield f"{incident.steps_lost or 0} steps lost"
    if incident.action is not None:
        yield incident.action.value
