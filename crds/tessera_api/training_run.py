"""The resource `TrainingRun`: what to train, on which data, how, on how many nodes, and where the results go.

Owns every field, bound and default of it. `nodes`, `checkpoint`, `hangSeconds`, `stragglers`, `drills` and `suspend`
may change while a run lives; what decides the model's bits is frozen, because a run with other data or another batch is
another run. Steps are optimizer steps, samples are sequences of `sequenceLength` tokens, a unit is a fixed number of
samples that is never split between ranks.
"""

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictBool, StrictInt, StringConstraints

from tessera_api.pod_template import PodTemplate
from tessera_api.quantity import MOST_TOKENS, Weight
from tessera_api.recipes import RecipeName
from tessera_api.resource import (
    API_VERSION,
    NAME_RULE,
    Document,
    Metadata,
    Name,
    SecretName,
    Steps,
    Uri,
    keyed,
    unique_by,
)
from tessera_api.rules import Freeze, Rule, above, exactly_one
from tessera_api.training import Training
from tessera_api.training_run_status import MOST_NODES, TrainingRunStatus

# A text that is no count is the pattern's affair: the rule takes it for the greatest count and holds its tongue.
_TOKENS_OF_TEXT = (
    "isQuantity(string(self.training.tokens)) && quantity(string(self.training.tokens)).isInteger()"
    f" ? quantity(string(self.training.tokens)).asInteger() : {MOST_TOKENS}"
)
OPERATOR = "tessera.dev/operator"
"""How Tessera's operator is called in `managedBy`."""
_CONTROLLER = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
_CLASS = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
_NEW_RUN = "create a new run, which can start from this one with model.from.run"


class Method(StrEnum):
    """What kind of training a run does."""

    PRETRAIN = "pretrain"
    """From the next token of every document."""
    CONTINUE = "continue"
    """The same, of a model that there is: on other data, with a learning rate that rises again."""
    FINETUNE = "finetune"
    """Answers of conversations, by a model that there is."""


class Stragglers(StrEnum):
    """What is done about a node that is slower than the others."""

    TELL = "Tell"
    """It is named."""
    REPLACE = "Replace"
    """It is named, and hands over to a spare, if there is one."""


class Drills(StrEnum):
    """Whether faults may be ordered."""

    REFUSED = "Refused"
    ALLOWED = "Allowed"


class Origin(Document):
    """Whose weights this run starts with."""

    run: Name | None = None
    """Another run, by its name in the same namespace or work folder: its final weights."""
    uri: Uri | None = None
    """A folder with a model as `transformers` saves it (config.json, safetensors, tokenizer.json):
    s3://bucket/prefix or file:///folder."""

    RULES = (exactly_one("run", "uri", "keep one of them: the name of a run, or the folder of a model"),)

    def words(self) -> str:
        """The field and its value."""
        return f"run: {self.run}" if self.run is not None else f"uri: {self.uri}"


class ModelSpec(Document):
    """The model to train."""

    recipe: RecipeName | None = None
    """A named model, trained from fresh weights."""
    from_: Annotated[Origin | None, Field(alias="from")] = None
    """Start from weights that there are: of another run, or of a model that others have made."""

    RULES = (exactly_one("recipe", "from", "keep one of them: a named recipe, or weights to start from"),)


class MixEntry(Document):
    """One dataset and its share of the samples."""

    dataset: Name
    """Name of the DatasetBuild."""
    weight: Weight
    """Relative share of the samples that come from it, a decimal string above 0 with at most 3 places."""

    RULES = (above("weight", "0", "1000"),)


class DataSpec(Document):
    """The training data: which datasets, in which proportion, cut into samples of which length."""

    sequence_length: Annotated[StrictInt, Field(ge=8, le=1_048_576, multiple_of=8)]
    """Tokens in a sample."""
    mix: Annotated[
        tuple[MixEntry, ...],
        Field(min_length=1, max_length=64, json_schema_extra=keyed("dataset")),
        unique_by("dataset"),
    ]
    """The datasets, each once."""


class Nodes(Document):
    """On how many nodes the run works."""

    count: Annotated[StrictInt, Field(ge=1, le=MOST_NODES)]
    """Nodes that train."""
    min: Annotated[StrictInt, Field(ge=1, le=MOST_NODES)] = 1
    """The run goes on with as few."""
    max: Annotated[StrictInt, Field(ge=1, le=MOST_NODES)]
    """The run never grows beyond."""
    spares: Annotated[StrictInt, Field(ge=0, le=256)] = 0
    """Nodes that stand ready to take the place of a lost one."""
    processes_per_node: Annotated[StrictInt, Field(ge=1, le=64)] = 1
    """Training processes on a node: one per accelerator."""
    accelerator: Name = "cpu"
    """Name of the accelerator profile, kept by the cluster's administrator: what a node of this kind has and needs."""

    RULES = (
        Rule(
            cel="self.min <= self.count",
            reads=("min", "count"),
            holds=lambda least, count: least <= count,
            words="count {count} is below min {min}",
            remedy="raise count or lower min",
            field_path="count",
        ),
        Rule(
            cel="self.count <= self.max",
            reads=("count", "max"),
            holds=lambda count, most: count <= most,
            words="count {count} is above max {max}",
            remedy="lower count or raise max",
            field_path="count",
        ),
    )


class CheckpointPolicy(Document):
    """How often a checkpoint is taken and how many stay."""

    every: Steps = 500
    """Steps from one checkpoint to the next."""
    keep: Annotated[StrictInt, Field(ge=1, le=1000)] = 3
    """Newest committed checkpoints that stay; of the older ones an anchor and its successor stay too."""
    snapshot_every: Annotated[StrictInt, Field(ge=0, le=1_000_000)] | None = None
    """Steps from one snapshot to the next: a copy of the training's state in the memory of its node and of one other,
    from which a generation begins where that is newer than the last checkpoint. `every` when absent; 0: none. Takes up
    to five times a node's share of weights and optimizer state; where that is not free, none are taken."""

    def snapshots(self) -> int:
        """Steps from one snapshot to the next; 0: none."""
        return self.every if self.snapshot_every is None else self.snapshot_every


class Storage(Document):
    """Where the run's folder lies."""

    uri: Uri
    """s3://bucket/prefix or file:///folder; the run's folder is made below it."""
    secret_ref: SecretName | None = None
    """Credentials for object storage; needed on a cluster only."""


class TrainingRunSpec(Document):
    """What is wanted of a run."""

    method: Method
    """What kind of training it is: pretrain, or continue (of the model in model.from: the learning rate rises again,
    and what the model makes of each dataset's held-out documents is told before and after; give data that it knew
    before a share in data.mix, and it forgets less), or finetune (of the model in model.from, on datasets of
    conversations: answers are learned)."""
    model: ModelSpec
    """The model to train."""
    data: DataSpec
    """The training data."""
    training: Training
    """How the model is trained."""
    nodes: Nodes
    """On how many nodes; may be changed while the run lives."""
    checkpoint: CheckpointPolicy = CheckpointPolicy()
    """Checkpoint policy; may be changed while the run lives."""
    storage: Storage
    """Where the run's folder lies."""
    suspend: StrictBool = False
    """Stop at the next step, with a commit, and give all nodes back; false goes on from there. On a cluster only."""
    hang_seconds: Annotated[StrictInt, Field(ge=5, le=86_400)] = 60
    """End a generation that computes nothing for so long, and for five times its median step if that is longer, and
    begin the next; from the next start on. Start-up and waits for data have half an hour; waits for a storage that is
    out, evaluation and export have five."""
    stragglers: Stragglers = Stragglers.TELL
    """What is done about a node whose ranks take much longer for their work than the others', step after step; from the
    next start on."""
    drills: Drills = Drills.REFUSED
    """Whether faults may be ordered of this run, to see it recover; from the next start on."""
    managed_by: Annotated[str, StringConstraints(max_length=253, pattern=_CONTROLLER)] = OPERATOR
    """The controller that looks after the run: another than tessera.dev/operator has Tessera's leave it alone. On a
    cluster only."""
    priority_class_name: Annotated[str, StringConstraints(max_length=253, pattern=_CLASS)] | None = None
    """The PriorityClass of the run's pods, from the next start on. On a cluster only."""
    queue_name: Annotated[str, StringConstraints(max_length=63, pattern=_CLASS)] | None = None
    """The queue of Kueue or Volcano in which each start waits for its nodes. On a cluster only."""
    active_deadline_seconds: Annotated[StrictInt, Field(ge=1, le=315_360_000)] | None = None
    """End the run, with a commit, once it has had nodes for so long: suspended or waiting for nodes does not count. On
    a cluster only."""
    ttl_seconds_after_finished: Annotated[StrictInt, Field(ge=0, le=31_536_000)] | None = None
    """Delete the resource so many seconds after the run's end; what it has stored stays. On a cluster only."""
    pod_template: PodTemplate | None = None
    """What the run's pods have beside what they need, from the next start on. On a cluster only."""

    FREEZES = (
        *(Freeze(field, _NEW_RUN) for field in ("method", "model", "data", "training", "storage")),
        Freeze("managedBy", "delete the run and create it anew: it goes on from its storage"),
    )
    RULES = (
        Rule(
            cel="self.method == 'pretrain' || has(self.model.from)",
            reads=("method", "model.from?"),
            holds=lambda method, has_from: method is Method.PRETRAIN or has_from,
            words="method {method} has no model to begin with",
            remedy="give model.from, or set method to pretrain",
            field_path="model",
        ),
        Rule(
            cel="!has(self.training.lora) || has(self.model.from)",
            reads=("training.lora?", "model.from?"),
            holds=lambda has_lora, has_from: has_from or not has_lora,
            words="training.lora adapts a model that there is",
            remedy="give model.from, or remove training.lora",
            field_path="training.lora",
        ),
        Rule(
            cel="self.method == 'pretrain' || self.training.schedule.warmupSteps > 0",
            reads=("method", "training.schedule.warmupSteps"),
            holds=lambda method, warmup: method is Method.PRETRAIN or warmup > 0,
            words="method {method} begins with new moments of the optimizer, and warmupSteps is"
            " {training.schedule.warmupSteps}",
            remedy="set training.schedule.warmupSteps to 1 or more",
            field_path="training.schedule.warmupSteps",
        ),
        Rule(
            cel="self.nodes.max * self.nodes.processesPerNode <= self.training.globalBatch / self.training.unit",
            reads=("nodes.max", "nodes.processesPerNode", "training.globalBatch", "training.unit"),
            holds=lambda most, processes, batch, unit: most * processes <= batch // unit,
            words="max {nodes.max} with {nodes.processesPerNode} processesPerNode is more processes than a step has"
            " units: globalBatch {training.globalBatch} / unit {training.unit}",
            remedy="lower nodes.max or processesPerNode, or cut the batch into more units",
            field_path="nodes.max",
        ),
        Rule(
            cel=f"(type(self.training.tokens) == int ? self.training.tokens : {_TOKENS_OF_TEXT})"
            " / (self.training.globalBatch * self.data.sequenceLength) > self.training.schedule.warmupSteps",
            reads=(
                "training.tokens",
                "training.globalBatch",
                "data.sequenceLength",
                "training.schedule.warmupSteps",
            ),
            holds=lambda tokens, batch, length, warmup: tokens // (batch * length) > warmup,
            words="tokens {training.tokens} end within the {training.schedule.warmupSteps} warmupSteps: a step takes"
            " globalBatch {training.globalBatch} * sequenceLength {data.sequenceLength} tokens",
            remedy="raise tokens, or lower warmupSteps or globalBatch",
            field_path="training.tokens",
        ),
    )

    @property
    def total_steps(self) -> int:
        """Steps of the whole run: whole steps only, at least one."""
        return self.training.tokens // (self.training.global_batch * self.data.sequence_length)


class TrainingRun(Document):
    """A training of a language model, from named datasets to an exported model, through lost nodes."""

    api_version: Literal["tessera.dev/v1alpha1"] = API_VERSION
    kind: Literal["TrainingRun"] = "TrainingRun"
    metadata: Metadata
    """Who it is, such as metadata: {name: NAME}."""
    spec: TrainingRunSpec
    """What is wanted of the run."""
    status: TrainingRunStatus | None = None
    """What is known of the run."""

    RULES: ClassVar[tuple[Rule, ...]] = (NAME_RULE,)
