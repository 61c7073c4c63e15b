"""hypothesis strategies for sound resources, as people would write them: raw documents, defaults often left out."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tessera_api.recipes import RecipeName
from tests.wire.contract_cases import DATASET_BUILD, TRAINING_RUN, edited

NAMES = st.from_regex(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True)
URIS = st.sampled_from(["s3://models", "s3://a-bucket/deep/er path/", "file:///srv/runs", "file:///"])
LINES = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=256)
# Up to 1, which every decimal of the contract allows.
SHARES = st.sampled_from(["1", "0.5", "1e-3", "6.25E-2", "0.000001", "00.25", "1.0", "5e-01"])
WEIGHTS = st.sampled_from(["1", "0.5", "0.001", "1000", "999.999", "00.25", "3"])


@st.composite
def training_runs(draw: st.DrawFn) -> dict[str, Any]:
    """Any sound TrainingRun."""
    unit = draw(st.integers(1, 64))
    units = draw(st.integers(1, 512))
    length = 8 * draw(st.integers(1, 1024))
    most = draw(st.integers(1, units))
    count = draw(st.integers(1, most))
    warmup = draw(st.integers(0, 1000))
    least_tokens = unit * units * length * (warmup + 1)
    model = st.one_of(
        st.builds(lambda recipe: {"recipe": str(recipe)}, st.sampled_from(RecipeName)),
        st.builds(lambda run: {"from": {"run": run}}, NAMES),
        st.builds(lambda uri: {"from": {"uri": uri}}, URIS),
    )
    chosen = draw(model)
    spec: dict[str, Any] = {
        "method": draw(st.sampled_from(["pretrain", "continue"] if warmup and "from" in chosen else ["pretrain"])),
        "model": chosen,
        "data": {"sequenceLength": length, "mix": draw(_mix())},
        "training": {
            "tokens": draw(_tokens(least_tokens)),
            "seed": draw(st.integers(0, 2**32 - 1)),
            "globalBatch": unit * units,
            "unit": unit,
            "learningRate": draw(SHARES),
            "schedule": {"warmupSteps": warmup, **draw(_schedules())},
            **draw(_training_options()),
        },
        "nodes": {"count": count, "max": most, **draw(_node_options(count, units // most))},
        "storage": {"uri": draw(URIS)},
        **draw(st.fixed_dictionaries({}, optional={"checkpoint": _checkpoint_policies()})),
    }
    return edited(TRAINING_RUN, {"metadata.name": draw(NAMES), "spec": spec})


@st.composite
def dataset_builds(draw: st.DrawFn) -> dict[str, Any]:
    """Any sound DatasetBuild."""
    tokenizers = st.one_of(
        st.builds(lambda size: {"train": {"vocabularySize": size}}, st.integers(300, 1_048_576)),
        st.builds(
            lambda uri, digest: {"uri": uri, "sha256": digest}, URIS, st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
        ),
    )
    spec: dict[str, Any] = {
        "content": "text",
        "sources": draw(st.lists(_sources(), min_size=1, max_size=4, unique_by=lambda source: source["name"])),
        "tokenizer": draw(tokenizers),
        "output": {"uri": draw(URIS)},
        **draw(
            st.fixed_dictionaries({}, optional={"heldOut": st.sampled_from([{}, {"share": "0.5"}, {"share": "1e-9"}])})
        ),
    }
    return edited(DATASET_BUILD, {"metadata.name": draw(NAMES), "spec": spec})


def _mix() -> st.SearchStrategy[list[dict[str, str]]]:
    entries = st.fixed_dictionaries({"dataset": NAMES, "weight": WEIGHTS})
    return st.lists(entries, min_size=1, max_size=4, unique_by=lambda entry: entry["dataset"])


def _tokens(least: int) -> st.SearchStrategy[int | str]:
    counts = st.integers(least, 10**15)
    thousands = st.integers(-(-least // 1000), 999_999_999).map(lambda count: f"{count / 1000:.3f}M")
    exact = counts.map(str) | counts
    return exact | thousands if least < 999_999_999_000 else exact


def _schedules() -> st.SearchStrategy[dict[str, str]]:
    shared = {"minimumShare": SHARES | st.just("0")}
    return st.one_of(
        st.fixed_dictionaries({"kind": st.sampled_from(["cosine", "linear"])}, optional=shared),
        st.fixed_dictionaries({"kind": st.just("wsd")}, optional={"decayShare": SHARES, **shared}),
    )


def _training_options() -> st.SearchStrategy[dict[str, str]]:
    scopes = st.sampled_from(["none", "blocks"])
    return st.fixed_dictionaries(
        {},
        optional={
            "weightDecay": SHARES | st.just("0"),
            "clipNorm": SHARES | st.just("1e6"),
            "precision": st.sampled_from(["fp32", "bf16"]),
            "determinism": st.just("exact"),
            "compile": scopes,
            "activationCheckpointing": scopes,
            "lossGuard": st.sampled_from(["Act", "Tell"]),
        },
    )


def _node_options(count: int, most_processes: int) -> st.SearchStrategy[dict[str, int]]:
    return st.fixed_dictionaries(
        {},
        optional={
            "min": st.integers(1, count),
            "spares": st.integers(0, 256),
            "processesPerNode": st.integers(1, min(64, most_processes)),
        },
    )


def _checkpoint_policies() -> st.SearchStrategy[dict[str, int]]:
    numbers = {"every": st.integers(1, 10**9), "keep": st.integers(1, 1000), "snapshotEvery": st.integers(0, 10**6)}
    return st.fixed_dictionaries({}, optional=numbers)


@st.composite
def _sources(draw: st.DrawFn) -> dict[str, Any]:
    stored = draw(st.sampled_from(["text", "jsonl", "parquet"]))
    patterns = st.lists(LINES, min_size=1, max_size=3, unique=True)
    optional: dict[str, st.SearchStrategy[Any]] = {"include": patterns}
    if stored != "text":
        optional["textField"] = LINES
    provenance = {
        "owner": LINES,
        "collected": st.dates().map(lambda day: day.isoformat()),
        "method": LINES,
        "synthetic": st.booleans(),
    }
    licences = st.sampled_from(["MIT", "PSF-2.0", "(MIT OR Apache-2.0) AND CC-BY-4.0", "LicenseRef-ours"])
    required = {"name": NAMES, "uri": URIS, "licence": licences, "provenance": st.fixed_dictionaries(provenance)}
    return {"format": stored, **draw(st.fixed_dictionaries(required, optional=optional))}
