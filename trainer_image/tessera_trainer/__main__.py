"""`python -m tessera_trainer`: one trainer process of a run, started by torchrun under the node's agent.

Reads top to bottom: connect, assemble, restore, train, evaluate, export. A failure is reported by the run's context
and ends the process; a broken collective parks it until the agent ends it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import tessera_run
from tessera_api.exit_codes import ExitCode
from tessera_api.keys import ring_of
from tessera_api.resolved_run import ResolvedRun, read_resolved_run
from tessera_api.run_directory import RunDirectory
from tessera_api.training_run import Method
from tessera_keeper.line import VARIABLE as KEEPER
from tessera_keeper.line import KeeperLine
from tessera_store import open_store
from tessera_trainer.adapter import Pair, adapted, merged
from tessera_trainer.adapter_export import export_adapter
from tessera_trainer.assembly import ACCELERATORS, assemble
from tessera_trainer.digest import state_digest
from tessera_trainer.export import TokenizerFile, export
from tessera_trainer.held_out import evaluate, together
from tessera_trainer.kept_parts import KeptParts
from tessera_trainer.loop import Parts, train
from tessera_trainer.origin import model_folder, read_origin
from tessera_trainer.parallel import join_world
from tessera_trainer.publish_export import publish_export
from tessera_trainer.restore import Readable
from tessera_trainer.shards import gather_rows

COLLECTIVE_LIMIT_SECONDS = 1800.0
"""The coordinator notices a lost peer long before; this bounds what it cannot see."""


def main() -> int:
    """The program."""
    directory = RunDirectory(Path(os.environ["TESSERA_RUN_DIRECTORY"]))
    resolved = read_resolved_run(directory.run_json)
    with tessera_run.connect() as run:
        world = join_world(
            ACCELERATORS[resolved.device],
            local_rank=run.local_rank,
            threads=resolved.threads,
            limit_s=COLLECTIVE_LIMIT_SECONDS,
        )
        keeper = KeeperLine(os.environ[KEEPER])
        parts = assemble(run, resolved, world, directory.root / "cache", keeper)
        if run.rank == 0:
            peak = parts.meter.peak
            for words in parts.data.packing():
                run.note("Packed", words)
            run.note("Peak", f"{peak.flops / 1e12:.3g} TFLOP/s a device: {peak.source}", flops=peak.flops)
        progress = parts.saver.restore(run.resume(), _source(run.resume(), resolved, directory, keeper))
        parts.guard.begin(progress.guard)
        if run.resume() is None and resolved.run.spec.method is not Method.PRETRAIN:
            _evaluate(run, parts, step=0)  # what it knew before, beside what it will know of each dataset
        progress = train(run, parts, progress)
        if parts.evidence.wanted:
            parts.evidence.state(progress.step, state_digest(parts.optimiser.state(), world.group))
        _conclude(run, resolved, parts, directory)
    return ExitCode.DONE


def _source(
    resume: tessera_run.Resume | None, resolved: ResolvedRun, directory: RunDirectory, keeper: KeeperLine
) -> Readable:
    """Where the point to begin from is read: the storage, or the memory of the run's nodes."""
    if resume is None or not resume.holders:
        return open_store(resolved.storage)
    return KeptParts(resume.objects, resume.holders, os.environ["TESSERA_NODE"], keeper, ring_of(directory))


def _conclude(run: tessera_run.Run, resolved: ResolvedRun, parts: Parts, directory: RunDirectory) -> None:
    """After the last commit: how good is it, and the model for others to use. Repeated as a whole if a node is lost
    in it."""
    _evaluate(run, parts, parts.total_steps)
    run.phase("export", parts.total_steps)
    whole = ((shard.name, gather_rows(shard, parts.world.group)) for shard in parts.optimiser.weights())
    if run.rank == 0:
        pairs: dict[str, Pair] = {}
        weights = merged(whole, adapted(parts.model), pairs)
        dataset = parts.data.tokenizer
        original = read_origin(resolved, open_store(resolved.storage))
        tokenizer = TokenizerFile(dataset.tokenizer(), dataset.manifest.tokenizer.end_of_text, original)
        export(directory.export, parts.shape, weights, tokenizer)
        if pairs and original is not None:
            export_adapter(directory.export, parts.shape, pairs, model_folder(original))
        where = publish_export(directory.export, resolved.storage)
        run.note("Exported", where)
    else:
        for _ in whole:
            pass


def _evaluate(run: tessera_run.Run, parts: Parts, step: int) -> None:
    """Loss on held-out documents: of each dataset, where there are several, and of all."""
    run.phase("evaluation", step)
    found = evaluate(parts.model, parts.data.datasets, parts.sequence_length, parts.world)
    if run.rank != 0:
        return
    if not found:
        need = parts.sequence_length + 1
        said = f"no dataset has {need} held-out tokens; raise heldOut.share to have the model evaluated"
        run.note("NotEvaluated", said)
        return
    for one in [*(found if len(found) > 1 else []), together(found)]:
        numbers = {"loss": one.loss, "bits_per_byte": one.bits_per_byte, "tokens": float(one.tokens)}
        whose = f" of {one.dataset}" if one.dataset else ""
        said = f"{one.bits_per_byte:.4f} bits per byte on held-out documents{whose} at step {step}"
        run.note("HeldOut", said, step=float(step), **numbers)


if __name__ == "__main__":
    sys.exit(main())
