"""Manifests read from files: sound ones become resources, wrong ones are refused with every mistake at once."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from tessera_api.dataset_build import DatasetBuild
from tessera_api.findings import findings
from tessera_api.manifest import ManifestErrors, Mistake, load_manifests, parse_manifests
from tessera_api.training_run import TrainingRun
from tests.wire.contract_cases import GONE, TRAINING_RUN, edited

EXAMPLES = Path(__file__).parents[2] / "examples"

WRONG = """\
apiVersion: tessera.dev/v1alpha1
kind: TrainingRun
metadata: {name: Tiny}
spec:
  method: pretrain
  model: {from: {run: 3}, recipe: llama-20m}
  data:
    sequenceLenght: 1024
    sequenceLength: 1024
    mix: [{dataset: stdlib, weight: "0"}]
  training:
    tokens: 400M
    seed: 7
    globalBatch: 255
    unit: 4
    learningRate: 6e-4
    schedule: {kind: wds}
  nodes:
    count: 4
    min: 5
    max: 80
    count: 6
  storage: {uri: s3://models/runs}
"""


def mistakes(text: str) -> list[Mistake]:
    """Everything that is said against a text."""
    with pytest.raises(ManifestErrors) as refused:
        parse_manifests(text, "run.yaml")
    return list(refused.value.mistakes)


def test_the_examples_are_a_dataset_and_a_run_on_it() -> None:
    dataset, run = load_manifests([EXAMPLES / "dataset.yaml", EXAMPLES / "pretrain.yaml"])

    assert isinstance(dataset, DatasetBuild)
    assert isinstance(run, TrainingRun)
    assert [entry.dataset for entry in run.spec.data.mix] == [dataset.metadata.name]
    assert run.spec.total_steps == 400_000_000 // (256 * 1024)
    assert run.spec.training.learning_rate == Decimal("0.0006")


def test_every_mistake_is_said_at_once_with_its_line() -> None:
    assert [(mistake.line, mistake.path, mistake.problem) for mistake in mistakes(WRONG)] == [
        (
            3,
            "metadata.name",
            "metadata.name is Tiny: it must be at most 40 lower-case letters, digits and '-', a letter first and"
            " no '-' last",
        ),
        (6, "spec.model.from.run", 'must be of type string: "integer"'),
        (6, "spec.model", "exactly one of recipe and from must be given"),
        (8, "spec.data.sequenceLenght", 'unknown field "spec.data.sequenceLenght"'),
        (10, "spec.data.mix[0].weight", "weight is 0: it must be above 0 and at most 1000"),
        (15, "spec.training.unit", "unit 4 does not divide globalBatch 255"),
        (16, "spec.training.learningRate", 'must be of type string: "number"'),
        (
            17,
            "spec.training.schedule.kind",
            'Unsupported value: "wds": supported values: "cosine", "linear", "wsd"',
        ),
        (19, "spec.nodes.count", "count 4 is below min 5"),
        (
            21,
            "spec.nodes.max",
            "max 80 with 1 processesPerNode is more processes than a step has units: globalBatch 255 / unit 4",
        ),
        (22, "spec.nodes.count", 'key "count" already set in map'),
    ]


def test_a_mistake_is_shown_with_file_line_value_and_remedy() -> None:
    [mistake] = [each for each in mistakes(WRONG) if each.path == "spec.training.learningRate"]

    assert str(mistake) == (
        'run.yaml:16: TrainingRun/Tiny: spec.training.learningRate: must be of type string: "number" (found 0.0006)\n'
        '    remedy: write it in quotes, so that it is text: "0.0006"'
    )


def test_an_unknown_field_names_the_nearest_known_one() -> None:
    [mistake] = [each for each in mistakes(WRONG) if each.path == "spec.data.sequenceLenght"]

    assert mistake.remedy == "did you mean sequenceLength? Known here: sequenceLength, mix"


def test_a_field_of_a_later_release_is_refused_with_what_is_known() -> None:
    text = (EXAMPLES / "pretrain.yaml").read_text(encoding="utf-8").replace("spares: 1", "topology: rack")

    [mistake] = mistakes(text)

    assert (mistake.path, mistake.value) == ("spec.nodes.topology", "rack")
    assert mistake.remedy == "remove it; known here: count, min, max, spares, processesPerNode, accelerator"


def test_the_same_resource_twice_is_refused() -> None:
    text = (EXAMPLES / "dataset.yaml").read_text(encoding="utf-8")

    [mistake] = mistakes(f"{text}---\n{text}")

    assert (mistake.resource, mistake.problem) == ("DatasetBuild/stdlib", "stands already in run.yaml:2")


def test_two_kinds_may_have_one_name() -> None:
    texts = [(EXAMPLES / name).read_text(encoding="utf-8") for name in ("dataset.yaml", "pretrain.yaml")]

    resources = parse_manifests("---\n".join(texts).replace("tiny-gpt", "stdlib"))

    assert [resource.metadata.name for resource in resources] == ["stdlib", "stdlib"]


def test_the_mistakes_of_all_files_are_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("a: [", encoding="utf-8")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "pod.yaml").write_text("apiVersion: v1\nkind: Pod\n", encoding="utf-8")
    files = [tmp_path / name for name in ("broken.yaml", "binary.yaml", "pod.yaml", "missing.yaml")]

    with pytest.raises(ManifestErrors) as refused:
        load_manifests(files, ["nodes.count=3"])

    said = {Path(mistake.source).name: mistake.problem.split(":")[0] for mistake in refused.value.mistakes}
    assert said == {
        "--set": "no resource is named ",
        "binary.yaml": "cannot be read",
        "broken.yaml": "this is no YAML",
        "missing.yaml": "cannot be read",
        "pod.yaml": "no kind of ours",
    }


def test_a_file_without_a_resource_is_refused() -> None:
    [mistake] = mistakes("# nothing\n---\n")

    assert mistake.problem == "there is no resource in it"


def test_a_resource_needs_its_version() -> None:
    text = (EXAMPLES / "pretrain.yaml").read_text(encoding="utf-8").replace("apiVersion: tessera.dev/v1alpha1\n", "")

    [mistake] = mistakes(text)

    assert (mistake.path, mistake.problem, mistake.remedy) == (
        "apiVersion",
        "Required value",
        "add apiVersion: tessera.dev/v1alpha1",
    )


def test_what_kubectl_reads_back_from_a_cluster_is_a_manifest_too() -> None:
    text = (EXAMPLES / "pretrain.yaml").read_text(encoding="utf-8")
    owned = 'metadata:\n  uid: 0a-1b\n  generation: 3\n  creationTimestamp: "2026-11-23T23:02:27Z"\n  labels: {team: a}'

    [run] = parse_manifests(text.replace("metadata:", owned))

    assert run.metadata.labels == {"team": "a"}


def test_a_field_by_its_python_name_is_refused_and_never_a_traceback() -> None:
    text = (EXAMPLES / "pretrain.yaml").read_text(encoding="utf-8")

    found = mistakes(text.replace("globalBatch: 256", "globalBatch: 256\n    global_batch: 25"))

    assert [(mistake.path, mistake.problem) for mistake in found] == [
        ("spec.training.global_batch", 'unknown field "spec.training.global_batch"')
    ]


def test_what_the_model_refuses_is_never_called_sound() -> None:
    raw = json.loads(json.dumps(TRAINING_RUN))
    raw["spec"]["nodes"] = {"count": 3, "min": 4, "max": 4}

    assert [item.problem for item in findings(TrainingRun, raw)] == ["count 3 is below min 4"]


@pytest.mark.parametrize(
    ("path", "value", "remedy"),
    [
        ("spec.training.seed", 2**32, "give an integer from 0 to 4294967295"),
        ("spec.data.sequenceLength", 12, "give an integer from 8 to 1048576, a multiple of 8"),
        ("spec.training.schedule.kind", "cosin", "use one of cosine, linear, wsd"),
        ("spec.training.precision", 3, "use one of fp32, bf16"),
        ("apiVersion", "v1", "write tessera.dev/v1alpha1"),
        ("spec.storage.uri", "https://models", "write s3://BUCKET/PREFIX or file:///FOLDER, at most 1024 characters"),
        (
            "metadata.namespace",
            "A B",
            "use lower-case letters, digits and '-', no '-' first or last, at most 63 characters",
        ),
        ("spec.data.mix.0.weight", 0, "write it in quotes, as text, and choose a value above 0 and at most 1000"),
        ("spec.data.mix.0.weight", 2, 'write it in quotes, so that it is text: "2"'),
        (
            "metadata",
            GONE,
            "add it: write an object; its fields are name, namespace, labels, annotations:"
            " Who it is, such as metadata: {name: NAME}.",
        ),
        ("spec.data.mix", [], "write a list of 1 to 64 items"),
        ("kind", "TrainingRuns", "did you mean TrainingRun?"),
    ],
)
def test_the_remedy_says_what_to_write(path: str, value: object, remedy: str) -> None:
    [mistake] = mistakes(json.dumps(edited(TRAINING_RUN, {path: value})))

    assert mistake.remedy == remedy


def test_a_misspelt_kind_hides_no_other_mistake() -> None:
    found = mistakes(json.dumps(edited(TRAINING_RUN, {"kind": "trainingRun", "spec.training.seed": -1})))

    assert [mistake.path for mistake in found] == ["kind", "spec.training.seed"]


def test_an_empty_file_beside_a_sound_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n", encoding="utf-8")

    with pytest.raises(ManifestErrors) as refused:
        load_manifests([EXAMPLES / "pretrain.yaml", tmp_path / "empty.yaml"])

    assert [mistake.problem for mistake in refused.value.mistakes] == ["there is no resource in it"]
