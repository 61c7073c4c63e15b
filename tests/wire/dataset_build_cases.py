"""What the contract refuses and accepts in a DatasetBuild, rule by rule and bound by bound."""

from typing import Any

from tests.wire.contract_cases import DATASET_BUILD, GONE, NAME_WORDS, URI_WORDS, Case

_SOURCE: dict[str, Any] = DATASET_BUILD["spec"]["sources"][0]
_MANY_SOURCES = [{**_SOURCE, "name": f"s{index}"} for index in range(65)]


def _build(path: str, bad: Any, words: str, good: Any, blamed: str = "") -> Case:
    return Case(DATASET_BUILD, {path: bad}, blamed or path, words, {path: good})


def _sources(**fields: Any) -> list[dict[str, Any]]:
    return [{**_SOURCE, **fields}]


_TOKENIZER = {"uri": "s3://models/t.json", "sha256": "0" * 64}
_TEMPLATE = {"uri": "s3://models/chat_template.jinja", "sha256": "1" * 64}
_CHAT = {
    "spec.content": "chat",
    "spec.sources": _sources(format="jsonl"),
    "spec.tokenizer": _TOKENIZER | {"chatTemplate": _TEMPLATE},
}


def _chat(bad: dict[str, Any], words: str, good: dict[str, Any], blamed: str) -> Case:
    return Case(DATASET_BUILD, _CHAT | bad, blamed, words, _CHAT | good)


RULES = (
    Case(DATASET_BUILD, {"metadata.name": "a.b"}, "metadata.name", f"metadata.name is a.b: {NAME_WORDS}", {}),
    _build(
        "spec.sources",
        _sources(textField="body"),
        "textField belongs to formats jsonl and parquet, and format is text",
        _sources(textField="body", format="jsonl"),
        "spec.sources[0].textField",
    ),
    _build("spec.tokenizer", {}, "exactly one of train and uri must be given", {"train": {"vocabularySize": 300}}),
    _build(
        "spec.tokenizer",
        {"uri": "s3://models/tokenizer.json"},
        "uri and sha256 must be given together",
        {"uri": "s3://models/tokenizer.json", "sha256": "0" * 64},
    ),
    _build(
        "spec.tokenizer",
        {"uri": "s3://models/t.json", "sha256": "0" * 64, "train": {"vocabularySize": 300}},
        "exactly one of train and uri must be given",
        {"uri": "s3://models/t.json", "sha256": "f" * 64},
    ),
    _chat(
        {"spec.tokenizer": {"train": {"vocabularySize": 300}, "chatTemplate": _TEMPLATE}},
        "a chatTemplate belongs to a tokenizer that there is",
        {},
        "spec.tokenizer.chatTemplate",
    ),
    _chat(
        {"spec.tokenizer": _TOKENIZER},
        "content chat and tokenizer.chatTemplate do not go together",
        {},
        "spec.tokenizer",
    ),
    _build(
        "spec.tokenizer",
        _TOKENIZER | {"chatTemplate": _TEMPLATE},
        "content text and tokenizer.chatTemplate do not go together",
        _TOKENIZER,
    ),
    _build(
        "spec.sources",
        _sources(format="jsonl", learn="LastAnswer"),
        "messagesField, promptField, responseField and learn are of content chat, and content is text",
        _sources(format="jsonl"),
    ),
    _chat(
        {"spec.sources": _sources()},
        "conversations come as jsonl or parquet, without a textField",
        {"spec.sources": _sources(format="parquet", messagesField="talk", learn="Marked")},
        "spec.sources",
    ),
    _chat(
        {"spec.sources": _sources(format="jsonl", promptField="ask")},
        "promptField and responseField must be given together",
        {"spec.sources": _sources(format="jsonl", promptField="ask", responseField="say")},
        "spec.sources[0]",
    ),
    _chat(
        {"spec.sources": _sources(format="jsonl", promptField="ask", responseField="say", messagesField="talk")},
        "promptField and messagesField exclude each other",
        {"spec.sources": _sources(format="jsonl", messagesField="talk")},
        "spec.sources[0].messagesField",
    ),
    _build(
        "spec.heldOut",
        {"share": "0.6"},
        "share is 0.6: it must be above 0 and at most 0.5",
        {"share": "0.5"},
        "spec.heldOut.share",
    ),
    _build("spec.heldOut", {"share": "0"}, "share is 0: it must be above 0 and at most 0.5", {}, "spec.heldOut.share"),
)

_BOUNDS = (
    _build("spec.content", "images", 'Unsupported value: "images": supported values: "text", "chat"', "text"),
    _chat(
        {"spec.sources": _sources(format="jsonl", learn="Some")},
        'Unsupported value: "Some": supported values: "Answers", "LastAnswer", "Marked"',
        {"spec.sources": _sources(format="jsonl", learn="Answers")},
        "spec.sources[0].learn",
    ),
    _chat(
        {"spec.tokenizer": _TOKENIZER | {"chatTemplate": {"uri": "s3://models/t"}}},
        "Required value",
        {"spec.tokenizer": _TOKENIZER | {"chatTemplate": {"uri": "s3://models/t", "sha256": "2" * 64}}},
        "spec.tokenizer.chatTemplate.sha256",
    ),
    _build("spec.sources", [], "should have at least 1 items", [_SOURCE]),
    _build("spec.sources", _MANY_SOURCES, "Too many: 65: must have at most 64 items", _MANY_SOURCES[:64]),
    _build(
        "spec.sources",
        [_SOURCE, _SOURCE],
        'Duplicate value: {"name":"stdlib"}',
        [_SOURCE, {**_SOURCE, "name": "other"}],
        "spec.sources[1]",
    ),
    _build("spec.sources", _sources(uri="/usr/lib"), URI_WORDS, _sources(uri="file:///usr/lib"), "spec.sources[0].uri"),
    _build(
        "spec.sources",
        _sources(include=[]),
        "should have at least 1 items",
        _sources(include=["*.py"]),
        "spec.sources[0].include",
    ),
    _build(
        "spec.sources",
        _sources(include=["a", "a"]),
        'Duplicate value: "a"',
        _sources(include=["a", "b"]),
        "spec.sources[0].include[1]",
    ),
    _build(
        "spec.sources",
        _sources(include=["x" * 257]),
        "Too long: may not be more than 256 bytes",
        _sources(include=["x" * 256]),
        "spec.sources[0].include[0]",
    ),
    _build(
        "spec.sources",
        _sources(format="csv"),
        'Unsupported value: "csv": supported values: "text", "jsonl", "parquet"',
        _sources(format="parquet"),
        "spec.sources[0].format",
    ),
    _build(
        "spec.sources.0.licence", GONE, "Required value", "MIT OR (Apache-2.0 AND CC-BY-4.0)", "spec.sources[0].licence"
    ),
    _build(
        "spec.sources.0.licence",
        "do what you like",
        r"should match '^\(*[A-Za-z0-9][-.+:A-Za-z0-9]*\)*( (AND|OR|WITH) \(*[A-Za-z0-9][-.+:A-Za-z0-9]*\)*)*$'",
        "GPL-2.0-only WITH Classpath-exception-2.0",
        "spec.sources[0].licence",
    ),
    _build("spec.sources.0.provenance", GONE, "Required value", _SOURCE["provenance"], "spec.sources[0].provenance"),
    _build(
        "spec.sources.0.provenance.owner",
        "",
        "should be at least 1 chars long",
        "me",
        "spec.sources[0].provenance.owner",
    ),
    _build(
        "spec.sources.0.provenance.collected",
        "2026-13-01",
        "should match '^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$'",
        "2024-02-29",
        "spec.sources[0].provenance.collected",
    ),
    _build(
        "spec.sources.0.provenance.collected",
        "2026-02-30",
        "collected is 2026-02-30: there is no such day",
        "2026-02-28",
        "spec.sources[0].provenance.collected",
    ),
    _build(
        "spec.sources.0.provenance.synthetic",
        "no",
        'must be of type boolean: "string"',
        True,
        "spec.sources[0].provenance.synthetic",
    ),
    _build(
        "spec.tokenizer",
        {"train": {"vocabularySize": 299}},
        "should be greater than or equal to 300",
        {"train": {"vocabularySize": 300}},
        "spec.tokenizer.train.vocabularySize",
    ),
    _build(
        "spec.tokenizer",
        {"uri": "s3://models/t.json", "sha256": "abc"},
        "should match '^[0-9a-f]{64}$'",
        {"uri": "s3://models/t.json", "sha256": "a" * 64},
        "spec.tokenizer.sha256",
    ),
    _build("spec.output.uri", GONE, "Required value", "file:///srv/datasets"),
    _build("spec.workers", 0, "should be greater than or equal to 1", 1),
    _build("spec.workers", 257, "should be less than or equal to 256", 256),
)

UNKNOWN = (
    Case(DATASET_BUILD, {"spec.stages": []}, "spec.stages", 'unknown field "spec.stages"', {}),
    Case(
        DATASET_BUILD,
        {"spec.sources.0.exclude": ["a"]},
        "spec.sources[0].exclude",
        'unknown field "spec.sources[0].exclude"',
        {},
    ),
)

KNOWN = RULES + _BOUNDS

FROZEN_FIELDS = (
    (DATASET_BUILD, "sources", _sources(uri="file:///usr/share")),
    (DATASET_BUILD, "tokenizer", {"train": {"vocabularySize": 4096}}),
    (DATASET_BUILD, "heldOut", {"share": "0.03"}),
    (DATASET_BUILD, "output", {"uri": "s3://models/elsewhere"}),
    (DATASET_BUILD, "workers", 2),
)

DEFAULTS: dict[str, Any] = {"spec.heldOut": {"share": "0.01"}, "spec.sources.0.include": ["**/*"], "spec.workers": 1}
