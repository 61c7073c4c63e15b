"""What the contract refuses and accepts in a TrainingRun, rule by rule and bound by bound."""

from typing import Any

from tests.wire import pod_template_cases
from tests.wire.contract_cases import GONE, NAME_WORDS, TRAINING_RUN, URI_WORDS, Case

_DECIMAL = r"should match '^[0-9]{1,12}(\.[0-9]{1,12})?([eE][-+]?[0-9]{1,2})?$'"
_SECRET = "should match '^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$'"
_CONTROLLER = "should match '^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$'"
_NAME = "should match '^[a-z]([-a-z0-9]*[a-z0-9])?$'"
_TOKENS = r"should match '^([0-9]{1,15}|10{15}|[0-9]{1,6}(\.[0-9]{1,3})?[kMGT])$'"
_WEIGHT = r"should match '^[0-9]{1,4}(\.[0-9]{1,3})?$'"
_MANY_MIX = [{"dataset": f"d{index}", "weight": "1"} for index in range(65)]


def _run(path: str, bad: Any, words: str, good: Any, blamed: str = "") -> Case:
    return Case(TRAINING_RUN, {path: bad}, blamed or path, words, {path: good})


RULES = (
    Case(
        TRAINING_RUN,
        {"metadata.name": "a" * 41},
        "metadata.name",
        f"metadata.name is {'a' * 41}: {NAME_WORDS}",
        {"metadata.name": "a" * 40},
    ),
    Case(TRAINING_RUN, {"metadata.name": "7b"}, "metadata.name", f"metadata.name is 7b: {NAME_WORDS}", {}),
    _run("spec.model", {}, "exactly one of recipe and from must be given", {"recipe": "llama-20m"}),
    _run(
        "spec.model",
        {"recipe": "llama-1m", "from": {"run": "tiny"}},
        "exactly one of recipe and from must be given",
        {"from": {"run": "tiny"}},
    ),
    _run(
        "spec.model",
        {"from": {}},
        "exactly one of run and uri must be given",
        {"from": {"run": "tiny"}},
        "spec.model.from",
    ),
    _run(
        "spec.model",
        {"from": {"run": "tiny", "uri": "s3://models/base"}},
        "exactly one of run and uri must be given",
        {"from": {"uri": "s3://models/base"}},
        "spec.model.from",
    ),
    _run(
        "spec.data.mix.0.weight",
        "0",
        "weight is 0: it must be above 0 and at most 1000",
        "1000",
        "spec.data.mix[0].weight",
    ),
    _run("spec.training.globalBatch", 9, "unit 2 does not divide globalBatch 9", 10, "spec.training.unit"),
    _run("spec.training.learningRate", "1.1", "learningRate is 1.1: it must be above 0 and at most 1", "1"),
    _run("spec.training.learningRate", "0e0", "learningRate is 0e0: it must be above 0 and at most 1", "1e-9"),
    _run("spec.training.weightDecay", "1.5", "weightDecay is 1.5: it must be at least 0 and at most 1", "0"),
    _run("spec.training.clipNorm", "0", "clipNorm is 0: it must be above 0 and at most 1e6", "0.5"),
    _run("spec.training.schedule.decayShare", "0", "decayShare is 0: it must be above 0 and at most 1", "1"),
    _run(
        "spec.training.schedule",
        {"kind": "cosine", "decayShare": "0.2"},
        "decayShare belongs to kind wsd, and kind is cosine",
        {"kind": "wsd", "decayShare": "0.2"},
        "spec.training.schedule.decayShare",
    ),
    _run("spec.training.schedule.minimumShare", "2", "minimumShare is 2: it must be at least 0 and at most 1", "0"),
    _run(
        "spec.nodes",
        {"count": 1, "min": 2, "max": 4},
        "count 1 is below min 2",
        {"count": 2, "min": 2, "max": 4},
        "spec.nodes.count",
    ),
    _run("spec.nodes", {"count": 4, "max": 3}, "count 4 is above max 3", {"count": 3, "max": 3}, "spec.nodes.count"),
    _run(
        "spec.nodes",
        {"count": 2, "max": 2, "processesPerNode": 3},
        "max 2 with 3 processesPerNode is more processes than a step has units: globalBatch 8 / unit 2",
        {"count": 2, "max": 2, "processesPerNode": 2},
        "spec.nodes.max",
    ),
    _run(
        "spec.training.tokens",
        "5k",
        "tokens 5k end within the 10 warmupSteps: a step takes globalBatch 8 * sequenceLength 64 tokens",
        "5.632k",
    ),
    _run(
        "spec.training.tokens",
        5631,
        "tokens 5631 end within the 10 warmupSteps: a step takes globalBatch 8 * sequenceLength 64 tokens",
        5632,
    ),
    Case(
        TRAINING_RUN,
        {"spec.method": "continue", "spec.model": {"recipe": "llama-1m"}},
        "spec.model",
        "method continue has no model to begin with",
        {"spec.method": "continue", "spec.model": {"from": {"run": "tiny"}}},
    ),
    Case(
        TRAINING_RUN,
        {"spec.method": "finetune", "spec.model": {"recipe": "llama-1m"}},
        "spec.model",
        "method finetune has no model to begin with",
        {"spec.method": "finetune", "spec.model": {"from": {"uri": "s3://models/base"}}},
    ),
    Case(
        TRAINING_RUN,
        {
            "spec.method": "continue",
            "spec.model": {"from": {"run": "tiny"}},
            "spec.training.schedule.warmupSteps": 0,
        },
        "spec.training.schedule.warmupSteps",
        "method continue begins with new moments of the optimizer, and warmupSteps is 0",
        {
            "spec.method": "continue",
            "spec.model": {"from": {"run": "tiny"}},
            "spec.training.schedule.warmupSteps": 1,
        },
    ),
    Case(
        TRAINING_RUN,
        {"spec.training.lora": {"rank": 8, "alpha": "16"}, "spec.model": {"recipe": "llama-1m"}},
        "spec.training.lora",
        "training.lora adapts a model that there is",
        {"spec.training.lora": {"rank": 8, "alpha": "16"}, "spec.model": {"from": {"run": "tiny"}}},
    ),
    Case(
        TRAINING_RUN,
        {"spec.training.lora": {"rank": 8, "alpha": "0"}, "spec.model": {"from": {"run": "tiny"}}},
        "spec.training.lora.alpha",
        "alpha is 0: it must be above 0 and at most 65536",
        {"spec.training.lora": {"rank": 8, "alpha": "0.5"}, "spec.model": {"from": {"run": "tiny"}}},
    ),
    *pod_template_cases.RULES,
)

_BOUNDS = (
    Case(
        TRAINING_RUN,
        {"spec.training.lora": {"rank": 1025, "alpha": "16"}, "spec.model": {"from": {"run": "tiny"}}},
        "spec.training.lora.rank",
        "should be less than or equal to 1024",
        {"spec.training.lora": {"rank": 1024, "alpha": "16"}, "spec.model": {"from": {"run": "tiny"}}},
    ),
    _run(
        "spec.method",
        "align",
        'Unsupported value: "align": supported values: "pretrain", "continue", "finetune"',
        "pretrain",
    ),
    _run(
        "spec.model.recipe",
        "llama-7b",
        'Unsupported value: "llama-7b": supported values: '
        '"llama-1m", "llama-5m", "llama-20m", "llama-125m", "llama-1b"',
        "llama-1b",
    ),
    _run("spec.model", {"from": {"run": "A"}}, _NAME, {"from": {"run": "a"}}, "spec.model.from.run"),
    _run("spec.data.sequenceLength", 60, "should be a multiple of 8", 56),
    _run("spec.data.sequenceLength", 0, "should be greater than or equal to 8", 8),
    _run("spec.data.mix", [], "should have at least 1 items", [{"dataset": "a", "weight": "1"}]),
    _run("spec.data.mix", _MANY_MIX, "Too many: 65: must have at most 64 items", _MANY_MIX[:64]),
    _run(
        "spec.data.mix",
        [{"dataset": "a", "weight": "1"}, {"dataset": "a", "weight": "2"}],
        'Duplicate value: {"dataset":"a"}',
        [{"dataset": "a", "weight": "1"}, {"dataset": "b", "weight": "2"}],
        "spec.data.mix[1]",
    ),
    _run(
        "spec.data.mix.0.dataset",
        "b" * 41,
        "Too long: may not be more than 40 bytes",
        "b" * 40,
        "spec.data.mix[0].dataset",
    ),
    _run("spec.data.mix.0.weight", "1e-10", _WEIGHT, "0.001", "spec.data.mix[0].weight"),
    _run("spec.data.mix.0.weight", "0.3333", _WEIGHT, "0.333", "spec.data.mix[0].weight"),
    _run("spec.data.mix.0.weight", 0.5, 'must be of type string: "number"', "0.5", "spec.data.mix[0].weight"),
    _run("spec.training.tokens", "4B", _TOKENS, "4G"),
    _run("spec.training.tokens", "1000000000000001", _TOKENS, "1000000000000000"),
    _run("spec.training.tokens", 0, "should be greater than or equal to 1", 1_000_000),
    _run("spec.training.seed", -1, "should be greater than or equal to 0", 0),
    _run("spec.training.globalBatch", "8", 'must be of type integer: "string"', 8),
    _run("spec.training.globalBatch", GONE, "Required value", 8),
    _run("spec.training.learningRate", 0.0006, 'must be of type string: "number"', "0.0006"),
    _run("spec.training.learningRate", "-1", _DECIMAL, "1"),
    _run("spec.training.learningRate", "0." + "1" * 31, "Too long: may not be more than 32 bytes", "0." + "1" * 12),
    _run(
        "spec.training.schedule.kind",
        "constant",
        'Unsupported value: "constant": supported values: "cosine", "linear", "wsd"',
        "wsd",
    ),
    _run("spec.training.schedule.warmupSteps", -1, "should be greater than or equal to 0", 0),
    _run("spec.training.precision", "fp16", 'Unsupported value: "fp16": supported values: "fp32", "bf16"', "bf16"),
    _run("spec.training.determinism", "none", 'Unsupported value: "none": supported values: "exact"', "exact"),
    _run("spec.training.compile", "all", 'Unsupported value: "all": supported values: "none", "blocks"', "blocks"),
    _run(
        "spec.training.activationCheckpointing",
        "all",
        'Unsupported value: "all": supported values: "none", "blocks"',
        "blocks",
    ),
    _run("spec.training.lossGuard", "act", 'Unsupported value: "act": supported values: "Act", "Tell"', "Tell"),
    _run("spec.nodes.count", 0, "should be greater than or equal to 1", 1),
    _run("spec.nodes.max", 16385, "should be less than or equal to 16384", 4),
    _run("spec.stragglers", "replace", 'Unsupported value: "replace": supported values: "Tell", "Replace"', "Replace"),
    _run("spec.nodes.spares", 257, "should be less than or equal to 256", 256),
    _run("spec.nodes.processesPerNode", 0, "should be greater than or equal to 1", 1),
    _run(
        "spec.checkpoint", {"every": 0}, "should be greater than or equal to 1", {"every": 1}, "spec.checkpoint.every"
    ),
    _run(
        "spec.checkpoint",
        {"snapshotEvery": -1},
        "should be greater than or equal to 0",
        {"snapshotEvery": 0},
        "spec.checkpoint.snapshotEvery",
    ),
    _run("spec.checkpoint", {"keep": 1001}, "should be less than or equal to 1000", {}, "spec.checkpoint.keep"),
    _run("spec.checkpoint", [], 'must be of type object: "array"', {"keep": 1}),
    _run("spec.storage.uri", "https://models/runs", URI_WORDS, "file:///srv/runs"),
    _run("spec.storage.uri", "s3://m/" + "x" * 1018, "Too long: may not be more than 1024 bytes", "s3://mmm"),
    _run("spec.storage", GONE, "Required value", {"uri": "s3://models"}),
    _run("spec.suspend", "yes", 'must be of type boolean: "string"', True),
    _run("spec.hangSeconds", 4, "should be greater than or equal to 5", 5),
    _run("spec.hangSeconds", 86_401, "should be less than or equal to 86400", 86_400),
    _run("spec.hangSeconds", "60s", 'must be of type integer: "string"', 60),
    _run("spec.drills", "Yes", 'Unsupported value: "Yes": supported values: "Refused", "Allowed"', "Allowed"),
    _run("spec.managedBy", "kueue", _CONTROLLER, "kueue.x-k8s.io/multikueue"),
    _run("spec.managedBy", "a.example/" + "x" * 244, "Too long: may not be more than 253 bytes", "a.example/X"),
    _run("spec.priorityClassName", "High", _SECRET, "high"),
    _run("spec.priorityClassName", "x" * 254, "Too long: may not be more than 253 bytes", "x" * 253),
    _run("spec.queueName", "Team", _SECRET, "team"),
    _run("spec.queueName", "x" * 64, "Too long: may not be more than 63 bytes", "x" * 63),
    _run("spec.activeDeadlineSeconds", 0, "should be greater than or equal to 1", 1),
    _run("spec.activeDeadlineSeconds", 315_360_001, "should be less than or equal to 315360000", 315_360_000),
    _run("spec.ttlSecondsAfterFinished", -1, "should be greater than or equal to 0", 0),
    _run("spec.ttlSecondsAfterFinished", 31_536_001, "should be less than or equal to 31536000", 31_536_000),
    _run("spec.ttlSecondsAfterFinished", "1h", 'must be of type integer: "string"', 3600),
    _run("spec.nodes.accelerator", "H100", _NAME, "nvidia-h100-sxm"),
    _run("spec.nodes.accelerator", "x" * 41, "Too long: may not be more than 40 bytes", "x" * 40),
    _run("spec.storage.secretRef", {}, "Required value", {"name": "models-s3"}, "spec.storage.secretRef.name"),
    _run("spec.storage.secretRef", {"name": "Models"}, _SECRET, {"name": "m"}, "spec.storage.secretRef.name"),
)

UNKNOWN = (
    tuple(
        Case(TRAINING_RUN, {path: value}, path, f'unknown field "{path}"', {})
        for path, value in (
            ("spec.image", "trainer:1"),
            ("spec.resources", {"cpu": 1}),
            ("spec.model.uri", "s3://models/base"),
            ("spec.training.epochs", 3),
            ("spec.training.weight_decay", "0.1"),
            ("spec.training.clip_norm", "1"),
            ("spec.training.schedule.minimum_share", "0.1"),
            ("spec.nodes.processes_per_node", 1),
        )
    )
    + pod_template_cases.UNKNOWN
)

KNOWN = RULES + _BOUNDS + pod_template_cases.BOUNDS

FROZEN_FIELDS = (
    (TRAINING_RUN, "model", {"from": {"run": "other"}}),
    (TRAINING_RUN, "data", {"sequenceLength": 72, "mix": [{"dataset": "stdlib", "weight": "1"}]}),
    (TRAINING_RUN, "training", {**TRAINING_RUN["spec"]["training"], "tokens": "65k"}),
    (TRAINING_RUN, "storage", {"uri": "s3://models/elsewhere"}),
    (TRAINING_RUN, "managedBy", "a.example/controller"),
)

DEFAULTS: dict[str, Any] = {
    "spec.checkpoint": {"every": 500, "keep": 3},
    "spec.nodes.accelerator": "cpu",
    "spec.suspend": False,
    "spec.hangSeconds": 60,
    "spec.drills": "Refused",
    "spec.managedBy": "tessera.dev/operator",
    "spec.nodes.spares": 0,
    "spec.nodes.processesPerNode": 1,
    "spec.training.schedule.minimumShare": "0.1",
    "spec.training.weightDecay": "0.1",
    "spec.training.clipNorm": "1",
    "spec.training.precision": "fp32",
    "spec.training.determinism": "exact",
    "spec.training.compile": "none",
    "spec.training.activationCheckpointing": "none",
    "spec.stragglers": "Tell",
    "spec.training.lossGuard": "Act",
}
