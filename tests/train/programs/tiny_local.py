"""`tessera local` with the real coordinator and agents; the dataset is made up, the trainer is `tiny_trainer.py`.

python tiny_local.py WORKDIR MANIFEST [PATH=VALUE ...]
"""

from __future__ import annotations

import dataclasses
import signal
import sys
from pathlib import Path

from tessera_cli.local import Wish, run_local, surroundings
from tessera_cli.programs import Programs
from tessera_cli.refusal import Refused

HERE = Path(__file__).parent


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    workdir, manifest, *sets = sys.argv[1:]
    programs = Programs(
        agent=(sys.executable, "-m", "tessera_trainer.agent", "--program", str(HERE / "tiny_trainer.py")),
        build=(sys.executable, str(HERE / "stand_in_build.py")),
    )
    wish = Wish((Path(manifest),), Path(workdir), sets=tuple(sets), again="the same command")
    try:
        return run_local(wish, dataclasses.replace(surroundings(sys.stdout), programs=programs))
    except Refused as refused:
        print(refused, file=sys.stderr)
        return refused.code


if __name__ == "__main__":
    sys.exit(main())
