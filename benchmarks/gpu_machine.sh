#!/bin/sh
# Runs `gpu.py` on a machine that has a GPU and torch and reaches no package index. Bring, in .whl: this repository's
# wheel (pip wheel --no-deps) and those of pydantic, pydantic-core, annotated-types, typing-inspection, orjson, boto3,
# botocore, s3transfer and jmespath for its Python. With torch 2.11, `older_torch.py` takes the place of what is newer.
set -e
site=$(mktemp -d)
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" .whl/*.whl
printf '\nimport sys\n\nif "older_torch" not in sys.modules:\n    import older_torch\n\n    older_torch.serve()\n' >> "$site"/tessera_trainer/exact.py
export PYTHONPATH="$site:$PWD/benchmarks" PYTHONUNBUFFERED=1
python3 benchmarks/gpu.py "$@"
