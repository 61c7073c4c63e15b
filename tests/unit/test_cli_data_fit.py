"""Datasets that a run cannot be trained on, and whole commands that are refused for it before anything starts."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from tessera_api.data_fit import shown_samples, unfit_data
from tessera_api.resolved_run import ResolvedDataset
from tessera_cli.datasets import documents_of
from tessera_cli.local import Surroundings, Wish, run_local
from tessera_cli.programs import Programs
from tessera_cli.refusal import Refused
from tests.train.local_place import BUILD, LAPTOP, RUN, WORDS, training_run

MIX = 'data.mix=[{"dataset": "words", "weight": "1"}, {"dataset": "code", "weight": "1"}]'
CODE = WORDS.model_copy(update={"fingerprint": "e" * 64})


def refused(datasets: dict[str, ResolvedDataset], *sets: str, origin: ResolvedDataset | None = None) -> str:
    """What is said of it; nothing if it fits."""
    return unfit_data(training_run(MIX, *sets), datasets, origin)


def test_datasets_with_one_tokenizer_and_enough_tokens_fit() -> None:
    assert refused({"words": WORDS, "code": CODE}, origin=WORDS) == ""


def test_every_dataset_needs_one_sample() -> None:
    length = training_run().spec.data.sequence_length
    enough, short = (CODE.model_copy(update={"tokens": length + more}) for more in (1, 0))
    assert refused({"words": WORDS, "code": enough}) == ""
    said = refused({"words": WORDS, "code": short})
    assert f"spec.data.mix[1].dataset: code has {length} training tokens, a sample of sequenceLength {length}" in said
    assert f"needs {length + 1}: give it more documents, or lower spec.data.sequenceLength" in said


def test_everything_that_does_not_fit_is_said_at_once_with_the_remedy() -> None:
    other = CODE.model_copy(update={"tokenizer_sha256": "0" * 64, "tokens": 3})
    origin = WORDS.model_copy(update={"tokenizer_sha256": "9" * 64})
    said = refused({"words": WORDS, "code": other}, "model.recipe=null", "model.from.run=base", origin=origin)
    assert said.splitlines()[0] == "run tiny cannot be trained on its datasets:"
    assert "code has 3 training tokens" in said
    assert f"code was built with tokenizer {'0' * 12}, words with {'d' * 12}: build it with the other's" in said
    assert f"base was trained with tokenizer {'9' * 12}, words was built with {'d' * 12}: build words with that" in said
    assert said.count("spec.tokenizer.uri and sha256") == 2


def test_tokens_that_fill_no_sample_are_said_with_their_number() -> None:
    run = training_run()
    length = run.spec.data.sequence_length
    words = WORDS.model_copy(update={"tokens": 3 * length + 1 + 5})
    assert shown_samples(run, {"words": words}) == [
        f"dataset words: 3 samples of {length} tokens an epoch, 5 tokens at its end fill none"
    ]


def test_documents_that_are_dropped_are_said_by_source_with_cause_and_number() -> None:
    counts = {"read": 100, "empty": 2, "tooLong": 0, "duplicate": 7, "train": 90, "heldOut": 1}
    assert (
        documents_of(counts) == "100 documents: 90 for training, 1 held out, 2 dropped (empty), 7 dropped (duplicate)"
    )


def test_a_command_is_refused_before_its_first_run_starts(tmp_path: Path) -> None:
    """The build goes well, and makes a dataset of three tokens."""
    program = tmp_path / "build.py"
    said = {**WORDS.model_dump(), "manifest": (tmp_path / "data").as_uri(), "tokens": 3}
    (tmp_path / "data").write_text("{}")
    program.write_text(f"print({json.dumps(json.dumps(said))})")
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(f"{BUILD}---{RUN}")
    around = Surroundings(io.StringIO(), Programs(build=(sys.executable, str(program))), machine=LAPTOP)
    with pytest.raises(Refused, match="words has 3 training tokens"):
        run_local(Wish((manifest,), tmp_path / "work", sets=(f"storage.uri={tmp_path.as_uri()}",)), around)
    assert not (tmp_path / "work" / "runs" / "tiny" / "run.json").exists()
