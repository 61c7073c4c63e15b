"""What a manifest becomes on one machine, and that every difference is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tessera_api.dataset_build import DatasetBuild
from tessera_api.manifest import parse_manifests
from tessera_api.resolved_run import Device, Override
from tessera_cli.accelerators import cuda_devices
from tessera_cli.laptop import Machine, fit_build, fit_run, is_set
from tessera_cli.refusal import Refused
from tessera_cli.workplace import Workplace
from tests.train.local_place import BUILD, training_run

PLACE = Workplace(Path("/place"))
LAPTOP = Machine(processors=8, cuda_devices=0)
LOCAL = "local storage; --set keeps another"


def shown(overrides: tuple[Override, ...]) -> list[tuple[str, str, str]]:
    return [(override.path.partition(": ")[2], override.asked, override.used) for override in overrides]


def test_a_laptop_gets_local_storage_and_the_cpu() -> None:
    fitted, device = fit_run(training_run(), PLACE, (), LAPTOP)
    assert device is Device.CPU
    assert fitted.resource.spec.storage.uri == "file:///place/runs"
    assert fitted.overrides == (
        Override(
            path="TrainingRun/tiny: spec.storage.uri", asked="s3://models/runs", used="file:///place/runs", why=LOCAL
        ),
        Override(path="TrainingRun/tiny: device", asked="accelerator", used="cpu", why="there is no CUDA device here"),
    )


def test_a_dataset_is_published_locally_too() -> None:
    [build] = parse_manifests(BUILD)
    assert isinstance(build, DatasetBuild)
    fitted = fit_build(build, PLACE, ())
    assert fitted.resource.spec.output.uri == "file:///place/datasets"
    assert shown(fitted.overrides) == [("spec.output.uri", "s3://models/datasets", "file:///place/datasets")]


def test_storage_that_was_set_by_hand_is_kept() -> None:
    fitted, _ = fit_run(training_run(), PLACE, ("storage.uri=s3://models/runs",), LAPTOP)
    assert fitted.resource.spec.storage.uri == "s3://models/runs"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("storage.uri=s3://a/b", True),
        ("spec.storage.uri=s3://a/b", True),
        ("tiny:storage.uri=s3://a/b", True),
        ("TrainingRun/tiny:storage={}", True),
        ("other:storage.uri=s3://a/b", False),
        ("storage.urit=x", False),
        ("nodes.count=2", False),
    ],
)
def test_a_set_value_is_known_by_target_and_path(text: str, expected: bool) -> None:
    assert is_set((text,), "TrainingRun", "tiny", "storage.uri") is expected


def test_one_process_per_node_on_a_cpu() -> None:
    run = training_run("nodes.processesPerNode=2")
    fitted, _ = fit_run(run, PLACE, ("storage.uri=s3://a/b",), LAPTOP)
    assert fitted.resource.spec.nodes.processes_per_node == 1
    assert shown(fitted.overrides) == [
        ("spec.nodes.processesPerNode", "2", "1"),
        ("device", "accelerator", "cpu"),
    ]


def test_the_option_nodes_makes_room_between_min_and_max() -> None:
    fitted, _ = fit_run(training_run("nodes.min=2"), PLACE, ("storage.uri=s3://a/b",), LAPTOP, nodes=1)
    nodes = fitted.resource.spec.nodes
    assert (nodes.min, nodes.count, nodes.max) == (1, 1, 3)
    fitted, _ = fit_run(training_run(), PLACE, (), LAPTOP, nodes=5)
    nodes = fitted.resource.spec.nodes
    assert (nodes.min, nodes.count, nodes.max) == (1, 5, 5)


def test_more_nodes_than_a_step_has_units_are_refused_with_the_remedy() -> None:
    with pytest.raises(Refused, match=r"more processes than a step has units.*remedy: lower nodes.max"):
        fit_run(training_run(), PLACE, (), LAPTOP, nodes=7)


def test_a_machine_with_enough_cuda_devices_trains_on_them() -> None:
    fitted, device = fit_run(training_run(), PLACE, ("storage.uri=s3://a/b",), Machine(16, cuda_devices=2))
    assert device is Device.CUDA
    assert shown(fitted.overrides) == [("spec.nodes.spares", "1", "0")]


def test_too_few_cuda_devices_are_said_with_the_way_to_use_them() -> None:
    fitted, device = fit_run(training_run(), PLACE, (), Machine(16, cuda_devices=1))
    assert device is Device.CPU
    assert fitted.overrides[-1].why == "1 CUDA devices are too few for 2 nodes: choose fewer with --nodes"


def test_cuda_devices_are_counted_without_a_library(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    counts = [
        cuda_devices(offered, tmp_path) for offered in ({}, {"CUDA_VISIBLE_DEVICES": "1"}, {"CUDA_VISIBLE_DEVICES": ""})
    ]
    assert counts == [2, 1, 0]


def test_a_named_accelerator_that_is_not_here_is_refused_with_the_way_to_use_the_cpu() -> None:
    asked = training_run("nodes.accelerator=nvidia-h100")

    with pytest.raises(Refused, match="and there is no CUDA device here: --set nodes"):
        fit_run(asked, PLACE, (), LAPTOP)
    _, device = fit_run(asked, PLACE, (), Machine(processors=8, cuda_devices=8))
    assert device is Device.CUDA


def test_a_suspended_run_is_not_started_here() -> None:
    with pytest.raises(Refused, match="suspend is true"):
        fit_run(training_run("suspend=true"), PLACE, (), LAPTOP)


def test_what_works_on_a_cluster_only_is_said_to_do_nothing_here() -> None:
    run = training_run("ttlSecondsAfterFinished=60")

    fitted, _ = fit_run(run, PLACE, ("ttlSecondsAfterFinished=60",), LAPTOP)

    told = [override for override in fitted.overrides if override.path.endswith("ttlSecondsAfterFinished")]
    assert [(override.asked, override.used) for override in told] == [("60", "nothing")]
