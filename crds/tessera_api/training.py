"""How a model is trained: `spec.training` of a TrainingRun. Owns its fields, bounds and defaults."""

from decimal import Decimal
from enum import StrEnum
from typing import Annotated

from pydantic import Field, StrictInt

from tessera_api.quantity import DecimalString, TokenCount
from tessera_api.resource import Document
from tessera_api.rules import Rule, above, from_to

DEFAULT_DECAY_SHARE = Decimal("0.2")


class ScheduleKind(StrEnum):
    """How the learning rate falls after the warm-up."""

    COSINE = "cosine"
    LINEAR = "linear"
    WSD = "wsd"


class Precision(StrEnum):
    """In which format weights and activations are multiplied."""

    FP32 = "fp32"
    BF16 = "bf16"


class Determinism(StrEnum):
    """What a repeated run has in common with the first."""

    EXACT = "exact"


class Compilation(StrEnum):
    """Which part of the model is compiled."""

    NONE = "none"
    BLOCKS = "blocks"


class Recomputation(StrEnum):
    """Which activations are computed again in the backward pass instead of being kept."""

    NONE = "none"
    BLOCKS = "blocks"


class LossGuard(StrEnum):
    """What is done about a loss that leaves its band."""

    ACT = "Act"
    """A wild step's update is left out; of a sustained rise training goes back to before it, and leaves its data
    out."""
    TELL = "Tell"
    """It is told, and nothing is done; an update that is no number is left out all the same, and many of them end the
    run."""


class Schedule(Document):
    """The learning rate over the steps, as a factor of the peak."""

    kind: ScheduleKind
    """How it falls after the warm-up: cosine, linear, or wsd (constant, then a linear decay)."""
    warmup_steps: Annotated[StrictInt, Field(ge=0, le=1_000_000)] = 0
    """Steps in which it rises linearly to the peak."""
    decay_share: DecimalString | None = None
    """Share of all steps that the decay of wsd takes, a decimal string; 0.2 when absent."""
    minimum_share: DecimalString = Decimal("0.1")
    """Learning rate at the end as a share of the peak, a decimal string."""

    RULES = (
        above("decayShare", "0", "1", optional=True),
        from_to("minimumShare", "0", "1"),
        Rule(
            cel="!has(self.decayShare) || self.kind == 'wsd'",
            reads=("kind", "decayShare?"),
            holds=lambda kind, has_share: not has_share or kind is ScheduleKind.WSD,
            words="decayShare belongs to kind wsd, and kind is {kind}",
            remedy="remove decayShare, or set kind to wsd",
            field_path="decayShare",
        ),
    )

    @property
    def decay(self) -> Decimal:
        """Share of all steps that the decay of wsd takes."""
        return DEFAULT_DECAY_SHARE if self.decay_share is None else self.decay_share


class Lora(Document):
    """Small matrices beside each matrix of attention and feed-forward, which alone are trained (LoRA)."""

    rank: Annotated[StrictInt, Field(ge=1, le=1024)]
    """Columns of the small matrices."""
    alpha: DecimalString
    """How much they count: what they add is multiplied by alpha / rank. A decimal string such as "32"."""

    RULES = (above("alpha", "0", "65536"),)


class Training(Document):
    """How the model is trained."""

    tokens: TokenCount
    """Tokens to train on: an integer, or a text with the suffix k, M, G or T, such as 400M."""
    seed: Annotated[StrictInt, Field(ge=0, le=4_294_967_295)]
    """Decides the first weights and the order of the data."""
    global_batch: Annotated[StrictInt, Field(ge=1, le=1_048_576)]
    """Samples in a step, over all ranks."""
    unit: Annotated[StrictInt, Field(ge=1, le=65_536)]
    """Samples in a unit, the fixed micro-batch that ranks share out whole."""
    learning_rate: DecimalString
    """Peak learning rate, a decimal string such as "6e-4"."""
    schedule: Schedule
    """The learning rate over the steps."""
    weight_decay: DecimalString = Decimal("0.1")
    """Decoupled weight decay of matrices, a decimal string."""
    clip_norm: DecimalString = Decimal(1)
    """Greatest norm of the gradient; a greater one is scaled down to it. A decimal string."""
    precision: Precision = Precision.FP32
    """Format in which weights and activations are multiplied."""
    determinism: Determinism = Determinism.EXACT
    """exact: the same bits at every world size and through every recovery."""
    compile: Compilation = Compilation.NONE
    """What is compiled: none, or each block of the model."""
    activation_checkpointing: Recomputation = Recomputation.NONE
    """What is computed again in the backward pass to save memory: none, or each block of the model."""
    lora: Lora | None = None
    """Train an adapter and nothing else; all weights are trained when absent. The export has the model with the adapter
    in it, and the adapter by itself, as PEFT reads it."""
    loss_guard: LossGuard = LossGuard.ACT
    """What is done about wild steps and rises of the loss: Act (leave out, go back) or Tell."""

    RULES = (
        Rule(
            cel="self.globalBatch % self.unit == 0",
            reads=("globalBatch", "unit"),
            holds=lambda batch, unit: batch % unit == 0,
            words="unit {unit} does not divide globalBatch {globalBatch}",
            remedy="choose a unit that divides globalBatch",
            field_path="unit",
        ),
        above("learningRate", "0", "1"),
        from_to("weightDecay", "0", "1"),
        above("clipNorm", "0", "1e6"),
    )

    @property
    def units(self) -> int:
        """Units in a step; the greatest world size."""
        return self.global_batch // self.unit
