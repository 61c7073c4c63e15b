"""A training program that ends before it has met its run. Environment: EARLY_END (import: by a failing import; code: by
an exit code)."""

import importlib
import os
import sys

if os.environ["EARLY_END"] == "import":
    importlib.import_module("no_such_module")
sys.exit(3)
