"""What a run may say of its own pods: a narrow part of Kubernetes' pod template, spelled as there.

Nothing in here lifts a restriction: host paths, host networks, privileges and init containers have no field, and what a
kind of node needs of that sort is the administrator's to give, in an accelerator profile. Who may write it is the
affair of the chart's ValidatingAdmissionPolicy.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StrictBool, StrictInt, StringConstraints

from tessera_api.resource import Document, keyed, listed, unique, unique_by
from tessera_api.rules import Rule, exactly_one

_DNS = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
_LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
_QUALIFIED = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
_QUANTITY = r"^[0-9]{1,12}(\.[0-9]{1,9})?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
_OWN = "tessera.dev/"
_RESERVED_FOLDERS = ("/run/tessera", "/dev", "/tmp", "/cache", "/etc/tessera", "/proc", "/sys")

Named = Annotated[str, StringConstraints(max_length=253, pattern=_DNS)]
_LabelText = Annotated[str, StringConstraints(max_length=63, pattern=_LABEL_VALUE)]
_Key = Annotated[str, StringConstraints(max_length=317, pattern=_QUALIFIED)]
_Quantity = Annotated[str, StringConstraints(max_length=24, pattern=_QUANTITY)]
Labels = Annotated[dict[str, _LabelText], Field(max_length=32)]
Amounts = Annotated[dict[str, _Quantity], Field(max_length=16)]


class Effect(StrEnum):
    """What a taint does to pods that do not tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class TolerationOperator(StrEnum):
    """How a toleration is compared with a taint."""

    EXISTS = "Exists"
    EQUAL = "Equal"


class ExpressionOperator(StrEnum):
    """How a node's label is compared."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Toleration(Document):
    """A taint of nodes that the pods put up with."""

    key: _Key | None = None
    """Of the taint; every taint when absent, and then the operator is Exists."""
    operator: TolerationOperator = TolerationOperator.EQUAL
    """Exists: whatever its value; Equal: with this value."""
    value: _LabelText | None = None
    """Of the taint."""
    effect: Effect | None = None
    """Of the taint; every effect when absent."""
    toleration_seconds: Annotated[StrictInt, Field(ge=0, le=31_536_000)] | None = None
    """How long NoExecute is put up with; without end when absent."""

    RULES = (
        Rule(
            cel="has(self.key) || self.operator == 'Exists'",
            reads=("key?", "operator"),
            holds=lambda has_key, operator: has_key or operator is TolerationOperator.EXISTS,
            words="a toleration without key has operator {operator}",
            remedy="give the key of the taint, or operator Exists to put up with every one",
            field_path="operator",
        ),
    )


class NodeExpression(Document):
    """A wish about one label of nodes."""

    key: _Key
    """The label."""
    operator: ExpressionOperator
    """In and NotIn compare with the values."""
    values: Annotated[tuple[_LabelText, ...], Field(max_length=32, json_schema_extra=listed("set")), unique()] = ()
    """What the label is compared with."""

    RULES = (
        Rule(
            cel="(self.operator in ['In', 'NotIn']) == (size(self.values) > 0)",
            reads=("operator", "values"),
            holds=lambda operator, values: operator.value.endswith("In") == bool(values),
            words="operator {operator} and its values do not go together",
            remedy="give values to In and NotIn, and none to Exists and DoesNotExist",
            field_path="values",
        ),
    )


class NodeTerm(Document):
    """Wishes about a node, all of which must hold."""

    match_expressions: Annotated[
        tuple[NodeExpression, ...], Field(min_length=1, max_length=16, json_schema_extra=listed("atomic"))
    ]
    """One for each label."""


class NodeTerms(Document):
    """Terms, one of which must hold."""

    node_selector_terms: Annotated[
        tuple[NodeTerm, ...], Field(min_length=1, max_length=8, json_schema_extra=listed("atomic"))
    ]
    """Each a set of wishes about a node."""


class NodeAffinity(Document):
    """To which nodes the pods may go."""

    required_during_scheduling_ignored_during_execution: NodeTerms
    """The pods go to no other node."""


class Affinity(Document):
    """Where the pods may go; how they keep away from each other is the operator's affair."""

    node_affinity: NodeAffinity
    """By labels of nodes."""


class Resources(Document):
    """What a pod asks for, by the resource's name, in place of what the accelerator profile says."""

    requests: Amounts = {}
    """What is set aside for it: cpu: 500m."""
    limits: Amounts = {}
    """What it may not exceed."""


class KeyOf(Document):
    """One key of a Secret or a ConfigMap of the namespace."""

    name: Named
    """Of the Secret or ConfigMap."""
    key: Annotated[str, StringConstraints(max_length=253, pattern=r"^[-._A-Za-z0-9]+$")]
    """In it."""
    optional: StrictBool = False
    """It may be missing."""


class ValueSource(Document):
    """Where a variable's value comes from."""

    secret_key_ref: KeyOf | None = None
    """A Secret."""
    config_map_key_ref: KeyOf | None = None
    """A ConfigMap."""

    RULES = (exactly_one("secretKeyRef", "configMapKeyRef", "keep one of them"),)


class Variable(Document):
    """A variable of the trainers' environment."""

    name: Annotated[str, StringConstraints(max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """Its name."""
    value: Annotated[str, StringConstraints(max_length=4096)] | None = None
    """Its value, as it is."""
    value_from: ValueSource | None = None
    """Where its value comes from."""

    RULES = (
        exactly_one("value", "valueFrom", "keep one of them"),
        Rule(
            cel="!self.name.startsWith('TESSERA_')",
            reads=("name",),
            holds=lambda name: not name.startswith("TESSERA_"),
            words="name is {name}: variables that begin with TESSERA_ are Tessera's own",
            remedy="choose another name",
            field_path="name",
        ),
    )


class Reference(Document):
    """A Secret or a ConfigMap of the namespace."""

    name: Named
    """Its name."""
    optional: StrictBool = False
    """It may be missing."""


class VariablesFrom(Document):
    """Every key of a Secret or a ConfigMap as a variable."""

    prefix: Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """Put before each name."""
    secret_ref: Reference | None = None
    """A Secret."""
    config_map_ref: Reference | None = None
    """A ConfigMap."""

    RULES = (exactly_one("secretRef", "configMapRef", "keep one of them"),)


class SecretVolume(Document):
    """A Secret of the namespace as files."""

    secret_name: Named
    """Its name."""


class ClaimVolume(Document):
    """A PersistentVolumeClaim of the namespace."""

    claim_name: Named
    """Its name."""


class ConfigMapVolume(Document):
    """A ConfigMap of the namespace as files."""

    name: Named
    """Its name."""


class EmptyVolume(Document):
    """An empty folder that goes with the pod."""

    size_limit: _Quantity
    """A pod that writes more is evicted."""


class Volume(Document):
    """A folder more in the trainers' file system."""

    name: Annotated[str, StringConstraints(max_length=40, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    """Its name."""
    mount_path: Annotated[str, StringConstraints(max_length=256, pattern=r"^/[A-Za-z0-9._/-]+$")]
    """Where it appears."""
    read_only: StrictBool = False
    """Nothing can be written there."""
    persistent_volume_claim: ClaimVolume | None = None
    """A claim."""
    config_map: ConfigMapVolume | None = None
    """A ConfigMap."""
    secret: SecretVolume | None = None
    """A Secret."""
    empty_dir: EmptyVolume | None = None
    """An empty folder."""

    RULES = (
        Rule(
            cel="[has(self.persistentVolumeClaim), has(self.configMap), has(self.secret), has(self.emptyDir)]"
            ".filter(there, there).size() == 1",
            reads=("persistentVolumeClaim?", "configMap?", "secret?", "emptyDir?"),
            holds=lambda *there: sum(there) == 1,
            words="a volume has exactly one of persistentVolumeClaim, configMap, secret and emptyDir",
            remedy="keep one of them",
        ),
        Rule(
            cel=f"!self.mountPath.contains('..') && {list(_RESERVED_FOLDERS)}"
            ".all(own, self.mountPath != own && !self.mountPath.startsWith(own + '/'))",
            reads=("mountPath",),
            holds=lambda path: (
                ".." not in path and not any(path == own or path.startswith(f"{own}/") for own in _RESERVED_FOLDERS)
            ),
            words="mountPath is {mountPath}, which is one of the folders of Tessera or of the system, or has .. in it",
            remedy="choose another folder, such as /data",
            field_path="mountPath",
        ),
    )


class PullSecret(Document):
    """A Secret of the namespace with a registry's credentials."""

    name: Named
    """Its name."""


class PodTemplate(Document):
    """What the run's pods have beside what they need, in Kubernetes' words; taken at the next start."""

    image: (
        Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[A-Za-z0-9][-A-Za-z0-9._/:@]*$")]
        | None
    ) = None
    """The trainers' image instead of the installation's: one that is made from it."""
    image_pull_secrets: Annotated[
        tuple[PullSecret, ...], Field(max_length=8, json_schema_extra=keyed("name")), unique_by("name")
    ] = ()
    """To fetch images with: for all pods of the run."""
    service_account_name: Named | None = None
    """Who the pods are to the cloud's storage. No token for the API server is mounted: for all pods of the run."""
    labels: Labels = {}
    """For all pods of the run."""
    annotations: Annotated[dict[str, Annotated[str, StringConstraints(max_length=4096)]], Field(max_length=32)] = {}
    """For all pods of the run."""
    node_selector: Labels = {}
    """Labels of nodes, beside the accelerator profile's: for the trainers' pods, as is what follows."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16, json_schema_extra=listed("atomic"))] = ()
    """Beside the profile's."""
    affinity: Affinity | None = None
    """Where they may go."""
    resources: Resources = Resources()
    """In place of what the profile says of the same resource."""
    env: Annotated[tuple[Variable, ...], Field(max_length=64, json_schema_extra=keyed("name")), unique_by("name")] = ()
    """Variables of their environment."""
    env_from: Annotated[tuple[VariablesFrom, ...], Field(max_length=8, json_schema_extra=listed("atomic"))] = ()
    """Variables from whole Secrets and ConfigMaps."""
    volumes: Annotated[
        tuple[Volume, ...], Field(max_length=16, json_schema_extra=keyed("name")), unique_by("name")
    ] = ()
    """Folders more."""

    RULES = tuple(
        Rule(
            cel=f"self.{field}.all(key, !key.startsWith('{_OWN}') && !key.startsWith('app.kubernetes.io/'))",
            reads=(field,),
            holds=lambda entries: not any(key.startswith((_OWN, "app.kubernetes.io/")) for key in entries),
            words=f"{field} has a key that begins with {_OWN} or app.kubernetes.io/, by which Tessera finds its pods",
            remedy="choose other keys",
            field_path=field,
        )
        for field in ("labels", "annotations")
    )
