"""Every alert fires where it should and is silent where it should be, by Prometheus' own test runner."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "charts" / "tessera" / "files" / "alerts.yaml"
ALERTS = [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
LIMIT_SECONDS = 60.0
OF = 'namespace="team",run="gpt"'
LABELS = {"namespace": "team", "run": "gpt"}
# A healthy run of ten hours: a step of 2 s and a commit each 10 minutes, two nodes and a spare, two coordinators, and
# an operator with another that stands by. A sample a minute; the clock begins at 0.
HEALTHY = {
    f'tessera_coordinator_leads{{{OF},pod="c0"}}': "1x600",
    f'tessera_coordinator_leads{{{OF},pod="c1"}}': "0x600",
    f'tessera_run_phase{{{OF},phase="Running"}}': "1x600",
    f"tessera_run_step{{{OF}}}": "0+30x600",
    f"tessera_run_step_timestamp_seconds{{{OF}}}": "0+60x600",
    f"tessera_run_step_seconds_sum{{{OF}}}": "0+60x600",
    f"tessera_run_step_seconds_count{{{OF}}}": "0+30x600",
    f"tessera_run_loss{{{OF}}}": "3x600",
    f"tessera_run_committed_step{{{OF}}}": "0+30x600",
    f"tessera_run_commit_timestamp_seconds{{{OF}}}": "0+60x600",
    f"tessera_run_storage_up{{{OF}}}": "1x600",
    f'tessera_run_node_seconds_total{{{OF},cause="compute"}}': "0+114x600",
    f'tessera_run_node_seconds_total{{{OF},cause="checkpoint_stall"}}': "0+6x600",
    f'tessera_run_node_seconds_total{{{OF},cause="spare"}}': "0+60x600",
    f"tessera_run_tokens_per_second{{{OF}}}": "50000x600",
    f'tessera_run_nodes{{{OF},role="active"}}': "2x600",
    f"tessera_run_incidents_total{{{OF}}}": "0x600",
    'tessera_operator_leads{pod="a"}': "1x600",
    'tessera_operator_leads{pod="b"}': "0x600",
    'tessera_operator_passes_total{kind="trainingruns",result="done"}': "0+6x600",
    'tessera_operator_passes_total{kind="trainingruns",result="failed"}': "0x600",
    'tessera_operator_wake_to_decision_seconds_bucket{le="0.5"}': "0+60x600",
    'tessera_operator_wake_to_decision_seconds_bucket{le="5"}': "0+60x600",
    'tessera_operator_wake_to_decision_seconds_bucket{le="+Inf"}': "0+60x600",
}


@dataclass(frozen=True)
class Trouble:
    """What differs from the healthy world from some hour on, and whom the alert names."""

    change: dict[str, str | None]
    labels: dict[str, str] = field(default_factory=lambda: LABELS)


STOPS = "0+60x300 18000x300"
TROUBLES = {
    "TesseraRunNoProgress": Trouble(
        {
            f"tessera_run_step_timestamp_seconds{{{OF}}}": STOPS,
            f"tessera_run_step_seconds_count{{{OF}}}": "0+30x300 9000x300",
            f"tessera_run_step_seconds_sum{{{OF}}}": "0+60x300 18000x300",
        }
    ),
    "TesseraRunLossNotFinite": Trouble({f"tessera_run_loss{{{OF}}}": f"3x500 {'NaN ' * 100}"}),
    "TesseraRunFailsAgainAndAgain": Trouble(
        {f"tessera_run_incidents_total{{{OF}}}": "0x500 0+1x100", f"tessera_run_committed_step{{{OF}}}": "30x600"}
    ),
    "TesseraCheckpointTooOld": Trouble({f"tessera_run_commit_timestamp_seconds{{{OF}}}": STOPS}),
    "TesseraStorageAway": Trouble({f"tessera_run_storage_up{{{OF}}}": "1x590 0x10"}),
    "TesseraGoodputLow": Trouble(
        {
            f'tessera_run_node_seconds_total{{{OF},cause="compute"}}': "0+60x600",
            f'tessera_run_node_seconds_total{{{OF},cause="checkpoint_stall"}}': "0+60x600",
        }
    ),
    "TesseraThroughputDrop": Trouble({f"tessera_run_tokens_per_second{{{OF}}}": "50000x550 30000x50"}),
    "TesseraRunWithoutLeader": Trouble({f'tessera_coordinator_leads{{{OF},pod="c0"}}': "1x580 0x20"}),
    "TesseraRunWithoutStandby": Trouble({f'tessera_coordinator_leads{{{OF},pod="c1"}}': None}),
    "TesseraOperatorDown": Trouble(
        {'tessera_operator_leads{pod="a"}': None, 'tessera_operator_leads{pod="b"}': None}, {}
    ),
    "TesseraOperatorFails": Trouble(
        {'tessera_operator_passes_total{kind="trainingruns",result="failed"}': "0+6x600"}, {"kind": "trainingruns"}
    ),
    "TesseraOperatorSlow": Trouble({'tessera_operator_wake_to_decision_seconds_bucket{le="0.5"}': "0+30x600"}, {}),
}


@pytest.fixture(scope="session")
def promtool() -> str:
    """Debian's."""
    found = shutil.which("promtool")
    if found is None and os.environ.get("TESSERA_REQUIRE_CLUSTER") == "1":
        pytest.fail("promtool is not installed: run scripts/setup_cluster.sh")
    if found is None:
        pytest.skip("promtool is not installed: run scripts/setup_cluster.sh")
    return str(found)


def judge(promtool: str, folder: Path, change: dict[str, str | None], expected: list[dict[str, Any]]) -> str:
    """Runs the rules over the healthy world with a change; empty when exactly the expected alerts fire at its end."""
    world = {**HEALTHY, **change}
    series = [{"series": name, "values": values} for name, values in world.items() if values is not None]
    tests = [
        {
            "interval": "1m",
            "input_series": series,
            "alert_rule_test": [
                {
                    "eval_time": "600m",
                    "alertname": alert["alert"],
                    "exp_alerts": [e["alert"] for e in expected if e["name"] == alert["alert"]],
                }
                for alert in ALERTS
            ],
        }
    ]
    file = folder / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "tests": tests}), encoding="utf-8")
    done = subprocess.run([promtool, "test", "rules", str(file)], text=True, capture_output=True, timeout=LIMIT_SECONDS)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def fired(promtool: str, folder: Path, change: dict[str, str | None]) -> dict[str, str]:
    """Which alerts fire at the end, with what promtool says of each: it names what it did not expect."""
    told: dict[str, str] = {}
    for block in judge(promtool, folder, change, []).split("FAILED:")[1:]:
        told |= {alert["alert"]: block for alert in ALERTS if f'alertname="{alert["alert"]}"' in block}
    return told


def test_the_rules_are_well_formed(promtool: str) -> None:
    done = subprocess.run([promtool, "check", "rules", str(RULES)], text=True, capture_output=True, timeout=60)

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_says_what_it_means_and_what_to_do() -> None:
    for alert in ALERTS:
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert set(alert["annotations"]) == {"summary", "description", "action"}
        assert alert["alert"].startswith("Tessera")


def test_there_is_a_trouble_for_every_alert() -> None:
    assert set(TROUBLES) == {alert["alert"] for alert in ALERTS}


def test_all_are_silent_while_everything_is_well(promtool: str, tmp_path: Path) -> None:
    assert judge(promtool, tmp_path, {}, []) == ""


@pytest.mark.parametrize("name", TROUBLES)
def test_an_alert_fires_in_its_trouble(promtool: str, tmp_path: Path, name: str) -> None:
    trouble = TROUBLES[name]

    told = fired(promtool, tmp_path, trouble.change)

    assert name in told
    for label, value in trouble.labels.items():
        assert f'{label}="{value}"' in told[name]
