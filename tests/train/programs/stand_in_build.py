"""A dataset's build that builds nothing: writes a manifest of a few bytes, and says so as the real one does."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tessera_api.dataset_build import DatasetBuild

FINGERPRINT = "f" * 64


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("spec", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    build = DatasetBuild.model_validate_json(arguments.spec.read_bytes())
    if (arguments.work / "hang").exists():  # put there by a test that interrupts a build
        (arguments.work / "hanging").touch()
        time.sleep(600)
    folder = Path(unquote(urlsplit(build.spec.output.uri).path)) / build.metadata.name
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({"fingerprint": FINGERPRINT, "sources": len(build.spec.sources)}))
    print(json.dumps({"stage": "tokenize", "done": 1, "of": 1}), flush=True)
    built = {"manifest": manifest.as_uri(), "fingerprint": FINGERPRINT}
    tokens = {"tokenizer_sha256": FINGERPRINT, "vocabulary": 300, "tokens": 10000}
    print(json.dumps(built | tokens), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
