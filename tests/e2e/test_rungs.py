"""A model of others and conversations in a bucket, fine-tuned on a real cluster while its nodes are killed."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.installation import BUCKET, Installation, step_of
from tests.train.test_finetune import a_model
from tests.unit.chats import a_chat_build, conversations

pytestmark = [pytest.mark.timeout(1500), pytest.mark.long]

PLACE = f"s3://{BUCKET}/rungs"
PUT = """
import pathlib, sys
from tessera_store import open_store
folder, store = pathlib.Path(sys.argv[1]), open_store(sys.argv[2])
for file in folder.rglob("*"):
    if file.is_file():
        store.put(file.relative_to(folder).as_posix(), file.read_bytes())
"""
ADAPTER = """
import json, sys
from safetensors.torch import load
from tessera_store import open_store
store = open_store(sys.argv[1])
listed = json.loads(store.get("export/tessera-export.json"))["files"]
tensors = load(store.get("export/adapter/adapter_model.safetensors"))
print(json.dumps({"files": sorted(listed), "trained": sum(bool(tensor.any()) for tensor in tensors.values())}))
"""


def test_a_model_in_a_bucket_is_finetuned_through_the_loss_of_a_node(installed: Installation, tmp_path: Path) -> None:
    build = a_chat_build(tmp_path, [{"messages": one} for one in conversations(600, 31)])
    a_model(tmp_path / "model", tmp_path / "tokenizer.json")
    installed.cluster.python(PUT, str(tmp_path), PLACE)
    secret = {"secretRef": {"name": "models-s3"}}
    there = json.loads(json.dumps(build).replace(tmp_path.as_uri(), PLACE))
    there["spec"]["output"] |= secret
    run = a_run(PLACE)
    run["spec"]["storage"] |= secret
    installed.apply(json.dumps(there), json.dumps(run))
    try:
        installed.wait("it trains", lambda: step_of(installed.status("tuned")) > 10, 400)
        installed.kubectl("delete", "pod", installed.rank_0("tuned"), "--force", "--grace-period=0")
        status = installed.succeed("tuned", 400)
        assert status["restarts"] >= 1
        found = json.loads(installed.cluster.python(ADAPTER, f"s3://{BUCKET}/runs/tuned"))
        assert {"adapter/adapter_config.json", "model.safetensors", "tokenizer_config.json"} <= set(found["files"])
        assert found["trained"] == 2 * 7 * 2, "both matrices of each of seven matrices of two layers"
    finally:
        installed.kubectl("delete", "trun", "tuned", "--timeout=60s", check=False)


def a_run(place: str) -> dict[str, Any]:
    training = {
        "tokens": 800 * 8 * 256,
        "seed": 7,
        "globalBatch": 8,
        "unit": 2,
        "learningRate": "5e-3",
        "schedule": {"kind": "cosine", "warmupSteps": 5},
        "lora": {"rank": 4, "alpha": "8"},
    }
    return {
        "apiVersion": "tessera.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": "tuned"},
        "spec": {
            "method": "finetune",
            "model": {"from": {"uri": f"{place}/model"}},
            "data": {"sequenceLength": 256, "mix": [{"dataset": "chats", "weight": "1"}]},
            "training": training,
            "nodes": {"count": 2, "min": 1, "max": 2, "spares": 1},
            "checkpoint": {"every": 20, "snapshotEvery": 5},
            "storage": {"uri": f"s3://{BUCKET}/runs"},
        },
    }
