"""What the contract refuses and accepts in a run's `podTemplate`, rule by rule and bound by bound."""

from typing import Any

from tests.wire.contract_cases import TRAINING_RUN, Case

_DNS = "should match '^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$'"
_LABEL = "should match '^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$'"
_KEY = "should match '^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$'"
_QUANTITY = r"should match '^[0-9]{1,12}(\.[0-9]{1,9})?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$'"
_OWN = "has a key that begins with tessera.dev/ or app.kubernetes.io/, by which Tessera finds its pods"
_FOLDER = "which is one of the folders of Tessera or of the system, or has .. in it"
_MANY = {f"k{index}": "v" for index in range(33)}


def _case(field: str, bad: Any, words: str, good: Any, blamed: str = "") -> Case:
    path = "spec.podTemplate"
    return Case(TRAINING_RUN, {path: _at(field, bad)}, f"{path}.{field}{blamed}", words, {path: _at(field, good)})


def _at(field: str, value: Any) -> dict[str, Any]:
    for name in reversed(field.split(".")):
        value = {name: value}
    found: dict[str, Any] = value
    return found


def _volume(**more: Any) -> list[dict[str, Any]]:
    return [{"name": "data", "mountPath": "/data", **more}]


def _affinity(**expression: Any) -> dict[str, Any]:
    terms = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", **expression}]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


_EXPRESSION = ".nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0]"
_EMPTY = {"emptyDir": {"sizeLimit": "1Gi"}}

RULES = (
    _case("labels", {"tessera.dev/run": "other"}, f"labels {_OWN}", {"example.com/team": "nlp"}),
    _case("annotations", {"app.kubernetes.io/name": "x"}, f"annotations {_OWN}", {"a.example/note": "any words: 7 %"}),
    _case(
        "tolerations",
        [{"effect": "NoSchedule"}],
        "a toleration without key has operator Equal",
        [{"operator": "Exists"}],
        "[0].operator",
    ),
    _case(
        "affinity",
        _affinity(operator="In"),
        "operator In and its values do not go together",
        _affinity(operator="In", values=["a"]),
        f"{_EXPRESSION}.values",
    ),
    _case(
        "affinity",
        _affinity(operator="Exists", values=["a"]),
        "operator Exists and its values do not go together",
        _affinity(operator="DoesNotExist"),
        f"{_EXPRESSION}.values",
    ),
    _case(
        "env",
        [{"name": "A", "value": "1", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
        "exactly one of value and valueFrom must be given",
        [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
        "[0]",
    ),
    _case(
        "env",
        [{"name": "A", "valueFrom": {}}],
        "exactly one of secretKeyRef and configMapKeyRef must be given",
        [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "s", "key": "K_1.x"}}}],
        "[0].valueFrom",
    ),
    _case(
        "env",
        [{"name": "TESSERA_LAST_WORDS", "value": "/dev/null"}],
        "name is TESSERA_LAST_WORDS: variables that begin with TESSERA_ are Tessera's own",
        [{"name": "NCCL_DEBUG", "value": "INFO"}],
        "[0].name",
    ),
    _case(
        "envFrom",
        [{"prefix": "X_"}],
        "exactly one of secretRef and configMapRef must be given",
        [{"secretRef": {"name": "s"}}],
        "[0]",
    ),
    _case(
        "volumes",
        _volume(configMap={"name": "a"}, **_EMPTY),
        "a volume has exactly one of persistentVolumeClaim, configMap, secret and emptyDir",
        _volume(**_EMPTY),
        "[0]",
    ),
    _case(
        "volumes",
        [{"name": "data", "mountPath": "/run/tessera/run", **_EMPTY}],
        f"mountPath is /run/tessera/run, {_FOLDER}",
        [{"name": "data", "mountPath": "/runs", **_EMPTY}],
        "[0].mountPath",
    ),
    _case(
        "volumes",
        [{"name": "data", "mountPath": "/data/../dev", **_EMPTY}],
        f"mountPath is /data/../dev, {_FOLDER}",
        _volume(secret={"secretName": "s"}),
        "[0].mountPath",
    ),
)

UNKNOWN = tuple(
    Case(
        TRAINING_RUN,
        {"spec.podTemplate": {field: value}},
        f"spec.podTemplate.{field}",
        f'unknown field "spec.podTemplate.{field}"',
        {},
    )
    for field, value in (
        ("hostNetwork", True),
        ("securityContext", {"privileged": True}),
        ("initContainers", [{"name": "root", "image": "busybox"}]),
    )
)

BOUNDS = (
    _case("image", "trainer image", "should match '^[A-Za-z0-9][-A-Za-z0-9._/:@]*$'", "r.example:5000/t@sha256:0a"),
    _case("image", "", "should be at least 1 chars long", "t"),
    _case("serviceAccountName", "Trainer", _DNS, "trainer"),
    _case("labels", _MANY, "Too many: 33: must have at most 32 items", {"a": ""}),
    _case("labels", {"team": "a b"}, _LABEL, {"team": "a_b"}, ".team"),
    _case("annotations", {"a": "x" * 4097}, "Too long: may not be more than 4096 bytes", {"a": "x" * 4096}, ".a"),
    _case("nodeSelector", {"zone": "x" * 64}, "Too long: may not be more than 63 bytes", {"zone": "x" * 63}, ".zone"),
    _case("tolerations", [{"key": "-"}], _KEY, [{"key": "nvidia.com/gpu"}], "[0].key"),
    _case(
        "tolerations",
        [{"key": "a", "tolerationSeconds": -1}],
        "should be greater than or equal to 0",
        [{"key": "a", "tolerationSeconds": 0, "effect": "NoExecute"}],
        "[0].tolerationSeconds",
    ),
    _case("resources.requests", {"cpu": "much"}, _QUANTITY, {"cpu": "500m", "memory": "1.5Gi"}, ".cpu"),
    _case("resources.limits", {"cpu": 2}, 'must be of type string: "integer"', {"cpu": "2"}, ".cpu"),
    _case(
        "env",
        [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}],
        'Duplicate value: {"name":"A"}',
        [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)"}],
        "[1]",
    ),
    _case(
        "env",
        [{"name": "A-B", "value": ""}],
        "should match '^[A-Za-z_][A-Za-z0-9_]*$'",
        [{"name": "_a1", "value": ""}],
        "[0].name",
    ),
    _case("imagePullSecrets", [{}], "Required value", [{"name": "registry"}], "[0].name"),
    _case(
        "volumes",
        _volume(persistentVolumeClaim={}),
        "Required value",
        _volume(persistentVolumeClaim={"claimName": "c"}),
        "[0].persistentVolumeClaim.claimName",
    ),
    _case(
        "volumes",
        [{"name": "a", "mountPath": "data", **_EMPTY}],
        "should match '^/[A-Za-z0-9._/-]+$'",
        _volume(readOnly=True, configMap={"name": "c"}),
        "[0].mountPath",
    ),
)
