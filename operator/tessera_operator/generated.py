"""Files that are made from tables: written, or compared with what they would be."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tessera_api.exit_codes import ExitCode


def keep(program: str, text: str) -> int:
    """The command of such a file: `[--check] FILE`. Returns an exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--check", action="store_true", help="only say whether the file is as it would be made")
    options = parser.parse_args()
    if not options.check:
        options.file.write_text(text, encoding="utf-8")
        return ExitCode.DONE
    if options.file.exists() and options.file.read_text(encoding="utf-8") == text:
        return ExitCode.DONE
    print(f"{options.file} is not as it would be made: run make docs", file=sys.stderr)
    return ExitCode.WRONG_INPUT
