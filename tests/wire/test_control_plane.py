"""The control plane that the tests start: it comes up whole and leaves nothing behind."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.control_plane import ControlPlaneFailed, control_plane
from tests.cluster.go_programs import KUBERNETES_VERSION, Programs


def test_it_answers_with_its_version_and_nothing_listens_after_its_end(programs: Programs, tmp_path: Path) -> None:
    with control_plane(programs, tmp_path) as plane:
        said = json.loads(plane.kubectl("version", "-o", "json").stdout)
        port = int(plane.url.rsplit(":", 1)[1])

    assert {part["gitVersion"] for part in (said["clientVersion"], said["serverVersion"])} == {KUBERNETES_VERSION}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_it_answers_within_five_times_its_goal(programs: Programs, tmp_path: Path) -> None:
    began = time.perf_counter()
    with control_plane(programs, tmp_path):
        seconds = time.perf_counter() - began

    print(f"the control plane answered after {seconds:.1f} s")
    assert seconds <= 5 * 5.0


def test_a_program_that_ends_at_once_is_said_with_its_log(programs: Programs, tmp_path: Path) -> None:
    etcd_in_its_place = replace(programs, kube_apiserver=programs.etcd)

    with pytest.raises(ControlPlaneFailed, match="a program ended"), control_plane(etcd_in_its_place, tmp_path):
        pass
