"""From what a trainer says of a completed step to its line in the journal and in metrics.jsonl. Pure."""

from __future__ import annotations

from tessera_api.journal import StepLine
from tessera_api.log import Open
from tessera_api.messages import StepRecord

_COLUMNS = {"grad_norm", "lr", "tokens_per_second", "mfu", "seconds", "data_seconds"}
"""Numbers that have a place of their own in a line."""


def step_line(record: StepRecord, generation: Open, date: float) -> StepLine:
    """`date`: Unix seconds when the step was completed, by the coordinator's clock; hosts differ in theirs."""
    return StepLine.model_validate(
        {
            **{name: value for name, value in record.numbers.items() if name in _COLUMNS},
            "time": date,
            "step": record.step,
            "tokens": record.tokens,
            "loss": record.loss,
            "generation": generation.generation,
            "world_size": generation.world_size(),
            "numbers": {name: value for name, value in record.numbers.items() if name not in _COLUMNS},
        }
    )
