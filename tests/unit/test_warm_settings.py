"""Which environments share a warm process."""

from __future__ import annotations

import pytest

from tessera_trainer.warm_settings import differing_settings


def test_settings_that_a_program_reads_later_do_not_differ() -> None:
    assert (
        differing_settings({"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "1", "RANK": "3", "NCCL_DEBUG": "INFO"}) == ()
    )


def test_each_setting_read_at_load_that_differs_is_named() -> None:
    loaded = {"OMP_NUM_THREADS": "1", "LD_PRELOAD": "libjemalloc.so", "PATH": "/bin"}
    wanted = {"OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "0", "PATH": "/usr/bin"}
    assert differing_settings(loaded, wanted) == ("LD_PRELOAD", "OMP_NUM_THREADS", "PYTHONHASHSEED")


@pytest.mark.parametrize(
    ("wanted", "differing"),
    [({}, ()), ({"OPENBLAS_NUM_THREADS": "1"}, ()), ({"OPENBLAS_NUM_THREADS": "4"}, ("OPENBLAS_NUM_THREADS",))],
)
def test_what_the_warm_process_imposes_differs_only_from_another_wish(
    wanted: dict[str, str], differing: tuple[str, ...]
) -> None:
    assert differing_settings({"OPENBLAS_NUM_THREADS": "1"}, wanted) == differing
