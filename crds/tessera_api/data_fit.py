"""Whether a run can be trained on its datasets: judged for every run before the first one starts.

Owns what the trainers would otherwise find out on their own, each for itself: one tokenizer for the whole mixture and
for the run that the weights come from, and at least one sample in every dataset.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tessera_api.resolved_run import ResolvedDataset
from tessera_api.training_run import Method, TrainingRun

Datasets = Mapping[str, ResolvedDataset]


def unfit_data(run: TrainingRun, datasets: Datasets, origin: ResolvedDataset | None) -> str:
    """Everything that does not fit, in words; empty when all does. `origin`: any dataset of the run that this one
    starts from."""
    problems = [
        *_other_content(run, datasets),
        *_too_short(run, datasets),
        *_other_tokenizers(run, datasets),
        *_other_origin(run, datasets, origin),
    ]
    return "\n".join([f"run {run.metadata.name} cannot be trained on its datasets:", *problems]) if problems else ""


def shown_samples(run: TrainingRun, datasets: Datasets) -> list[str]:
    """What the run can read of each dataset; the tokens that fill no sample are said."""
    length = run.spec.data.sequence_length
    lines = []
    for name in dict.fromkeys(entry.dataset for entry in run.spec.data.mix):
        if (learned := datasets[name].learned) is not None:
            least = -(-datasets[name].tokens // (length + 1))
            share = 100 * learned / datasets[name].tokens
            lines.append(
                f"dataset {name}: conversations of {datasets[name].tokens} tokens, {share:.1f} % of them learned; at"
                f" least {least} samples of {length} tokens an epoch"
            )
            continue
        samples = (datasets[name].tokens - 1) // length
        left = datasets[name].tokens - 1 - samples * length
        lines.append(
            f"dataset {name}: {samples} samples of {length} tokens an epoch, {left} tokens at its end fill none"
        )
    return lines


def _other_content(run: TrainingRun, datasets: Datasets) -> Iterator[str]:
    """Conversations are for fine-tuning, and for nothing else."""
    method = run.spec.method
    for place, entry in enumerate(run.spec.data.mix):
        of_chat = datasets[entry.dataset].learned is not None
        if of_chat != (method is Method.FINETUNE):
            holds = "conversations" if of_chat else "text"
            yield (
                f"  spec.data.mix[{place}].dataset: {entry.dataset} holds {holds}, and method is {method}: finetune"
                " takes datasets of content chat, the other methods those of content text"
            )


def _too_short(run: TrainingRun, datasets: Datasets) -> Iterator[str]:
    needed = run.spec.data.sequence_length + 1
    for place, entry in enumerate(run.spec.data.mix):
        tokens = datasets[entry.dataset].tokens
        if tokens < needed and datasets[entry.dataset].learned is None:
            yield (
                f"  spec.data.mix[{place}].dataset: {entry.dataset} has {tokens} training tokens, a sample of"
                f" sequenceLength {needed - 1} needs {needed}: give it more documents, or lower"
                " spec.data.sequenceLength"
            )


def _other_tokenizers(run: TrainingRun, datasets: Datasets) -> Iterator[str]:
    first, *others = run.spec.data.mix
    wanted = datasets[first.dataset].tokenizer_sha256
    for place, entry in enumerate(others, 1):
        found = datasets[entry.dataset].tokenizer_sha256
        if found != wanted:
            yield (
                f"  spec.data.mix[{place}].dataset: {entry.dataset} was built with tokenizer {found[:12]},"
                f" {first.dataset} with {wanted[:12]}: build it with the other's tokenizer.json"
                " (spec.tokenizer.uri and sha256)"
            )


def _other_origin(run: TrainingRun, datasets: Datasets, origin: ResolvedDataset | None) -> Iterator[str]:
    first = run.spec.data.mix[0].dataset
    found = datasets[first].tokenizer_sha256
    if origin is not None and run.spec.model.from_ is not None and origin.tokenizer_sha256 != found:
        yield (
            f"  spec.model.from.{run.spec.model.from_.words()} was trained with tokenizer"
            f" {origin.tokenizer_sha256[:12]}, {first} was built with {found[:12]}: build {first} with that run's"
            " tokenizer.json (spec.tokenizer.uri and sha256)"
        )
