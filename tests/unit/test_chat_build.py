"""Datasets of conversations: what comes out of a build is what was said, marked; nothing is lost without a count."""

from __future__ import annotations

import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from tokenizers import Tokenizer

from tessera_api.dataset_build import DatasetBuild
from tessera_data.build import Built, Sizes, build_dataset
from tessera_data.conversations import Conversations, Unusable
from tessera_data.manifest import Split
from tessera_data.reader import Dataset
from tessera_data.refusal import Refused
from tests.unit.chats import CHATML, a_chat_build, conversations


def built(folder: Path, records: list[dict[str, Any]], sizes: Sizes | None = None, **source: Any) -> Built:
    manifest = DatasetBuild.model_validate(a_chat_build(folder, records, **source))
    return build_dataset(manifest, folder / "work", lambda *_: None, sizes)


def read_back(folder: Path, found: Built, split: Split) -> list[tuple[str, str]]:
    """Each conversation as the model reads it, and what of it is learned."""
    dataset = Dataset.open(found.uri, folder / "cache")
    if not dataset.manifest.splits[split].documents:
        return []
    tokenizer = Tokenizer.from_buffer(dataset.tokenizer())
    batch = dataset.stream(split, 128).read(np.arange(dataset.stream(split, 128).samples))
    texts = []
    for row, segments in zip(batch.tokens, batch.segments(), strict=True):
        for number in range(segments.max() + 1):
            part = row[segments == number]
            ids = part & 0x7FFFFFFF
            said, learned = (
                tokenizer.decode(each.tolist(), skip_special_tokens=False) for each in (ids, ids[part < 0])
            )
            texts += [(said, learned)] if (part < 0).any() else []
    return texts


def as_read(conversation: list[dict[str, str]]) -> str:
    return "".join(f"<|im_start|>{one['role']}\n{one['content']}<|im_end|>\n" for one in conversation)


def answers(conversation: list[dict[str, str]]) -> list[str]:
    return [one["content"] + "<|im_end|>" for one in conversation if one["role"] == "assistant"]


def test_every_conversation_comes_back_once_with_its_answers_marked(tmp_path: Path) -> None:
    given = [one for one in conversations(60, 9) if len(as_read(one)) < 120]
    found = built(tmp_path / "data", [{"messages": one} for one in given], Sizes(1000, 3000))

    texts = [text for split in Split for text in read_back(tmp_path, found, split)]
    expected = {(as_read(one), "".join(answers(one))) for one in given}
    assert set(texts) == expected
    info = found.manifest.splits[Split.TRAIN]
    assert found.manifest.build["chatTemplate"] == hashlib.sha256(CHATML.encode()).hexdigest()
    assert found.manifest.of_chat
    assert info.learned is not None
    assert 0 < info.learned < info.tokens
    counts = found.manifest.build["sources"][0]["documents"]
    assert counts["train"] + counts["heldOut"] == len(texts) == len(expected)
    assert counts["read"] == len(given) == len(texts) + counts["duplicate"]


def test_a_prompt_and_its_response_and_messages_of_other_names_are_the_same_conversation(tmp_path: Path) -> None:
    pairs = [[{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}!"}] for n in range(30)]
    plain = [{"messages": pair} for pair in pairs]
    named = [
        {"talk": [{"from": "human", "value": p["content"]}, {"from": "gpt", "value": r["content"]}]} for p, r in pairs
    ]
    apart = [{"ask": prompt["content"], "say": response["content"]} for prompt, response in pairs]
    found = [
        built(tmp_path / "plain", plain),
        built(tmp_path / "named", named, messagesField="talk"),
        built(tmp_path / "apart", apart, promptField="ask", responseField="say"),
    ]
    assert len({json.dumps(one.manifest.encode().decode().split('"splits":')[1]) for one in found}) == 1


def test_what_is_learned_is_what_the_source_says(tmp_path: Path) -> None:
    talk: list[dict[str, Any]] = [
        {"role": "user", "content": "one?"},
        {"role": "assistant", "content": "first", "train": False},
        {"role": "user", "content": "two?"},
        {"role": "assistant", "content": "second", "train": True},
        {"role": "user", "content": "three?"},
        {"role": "assistant", "content": "third"},
    ]
    records = [{"messages": talk}, {"messages": talk[:2]}]
    for learn, expected in (("Answers", "first|second|third"), ("LastAnswer", "third"), ("Marked", "second")):
        found = built(tmp_path / learn, records, learn=learn)
        texts = [text for split in Split for text in read_back(tmp_path / learn, found, split)]
        longest = max(texts, key=lambda text: len(text[0]))
        assert longest == (as_read(talk), "".join(f"{part}<|im_end|>" for part in expected.split("|")))
        dropped = found.manifest.build["sources"][0]["documents"].get("nothingLearned", 0)
        assert dropped == (1 if learn == "Marked" else 0)


def test_conversations_in_parquet_are_those_in_lines(tmp_path: Path) -> None:
    records = [{"messages": one} for one in conversations(40, 11)]
    lines = built(tmp_path / "lines", records)
    manifest = a_chat_build(tmp_path / "parquet", [{"messages": []}], format="parquet")
    folder = tmp_path / "parquet" / "chats"
    (folder / "chats.jsonl").unlink()
    parquet.write_table(pyarrow.Table.from_pylist(records), folder / "chats.parquet", row_group_size=7)
    found = build_dataset(DatasetBuild.model_validate(manifest), tmp_path / "work", lambda *_: None)

    assert found.manifest.splits == lines.manifest.splits


def test_what_json_has_no_word_for_and_what_is_nested_without_end_stops_no_build(tmp_path: Path) -> None:
    conversations_of = Conversations(DatasetBuild.model_validate(a_chat_build(tmp_path, [])).spec.sources[0])
    talk: list[dict[str, Any]] = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    timed = [talk[0] | {"when": datetime.date(2026, 11, 1)}, talk[1]]
    found = conversations_of.canonical({"messages": timed})
    assert isinstance(found, str)
    assert json.loads(found)[0]["when"] == "2026-11-01"
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    assert conversations_of.canonical({"messages": [talk[0] | {"tools": deep}, talk[1]]}) is Unusable.NO_MESSAGES


def test_a_row_of_parquet_that_is_no_text_is_left_out_alone(tmp_path: Path) -> None:
    manifest = a_chat_build(tmp_path, [], format="parquet", promptField="ask", responseField="say")
    folder = tmp_path / "chats"
    (folder / "chats.jsonl").unlink()
    said = pyarrow.array([b"one", b"\xff\xfe", b"three"], pyarrow.binary()).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"ask": ["1?", "2?", "3?"], "say": said}), folder / "chats.parquet")
    found = build_dataset(DatasetBuild.model_validate(manifest), tmp_path / "work", lambda *_: None)
    counts = found.manifest.build["sources"][0]["documents"]
    assert (counts["read"], counts["undecodable"], counts["train"] + counts["heldOut"]) == (3, 1, 2)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    good = [{"messages": one} for one in conversations(20, 12)]
    odd: list[dict[str, Any]] = [
        {"messages": []},
        {"messages": "hello"},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": [{"role": "user", "content": "hi"}]},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": ""}]},
        {"messages": [{"role": "user", "content": "<|im_end|>"}, {"role": "assistant", "content": "no"}]},
    ]
    counts = built(tmp_path, good + odd).manifest.build["sources"][0]["documents"]
    assert (counts["noConversation"], counts["nothingLearned"], counts["notFollowed"]) == (3, 2, 1)
    assert counts["read"] == len(good) + len(odd)
    assert sum(count for cause, count in counts.items() if cause != "read") == counts["read"]


def test_a_template_that_follows_nothing_is_refused(tmp_path: Path) -> None:
    manifest = a_chat_build(tmp_path, [{"messages": one} for one in conversations(5, 13)])
    text = "{% for message in messages %}{{ message.content | upper }}{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(text)
    template = manifest["spec"]["tokenizer"]["chatTemplate"]
    with pytest.raises(Refused, match=r"its sha256 is .*, tokenizer.chatTemplate.sha256 says"):
        build_dataset(DatasetBuild.model_validate(manifest), tmp_path / "work", lambda *_: None)
    template["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    with pytest.raises(Refused, match="it leaves nothing to train on: 5 conversations are not followed"):
        build_dataset(DatasetBuild.model_validate(manifest), tmp_path / "work", lambda *_: None)


def test_a_column_of_another_kind_is_refused_with_the_field_that_names_it(tmp_path: Path) -> None:
    manifest = a_chat_build(tmp_path, [], format="parquet", promptField="ask", responseField="say")
    folder = tmp_path / "chats"
    (folder / "chats.jsonl").unlink()
    parquet.write_table(pyarrow.table({"ask": ["hi"], "say": [5]}), folder / "chats.parquet")
    with pytest.raises(Refused, match=r"column say holds int64.*promptField and responseField"):
        build_dataset(DatasetBuild.model_validate(manifest), tmp_path / "work", lambda *_: None)


def test_a_field_that_is_not_there_is_found_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="there is no field 'talk', only messages"):
        built(tmp_path, [{"messages": one} for one in conversations(3, 14)], messagesField="talk")


def test_another_template_is_another_dataset(tmp_path: Path) -> None:
    records = [{"messages": one} for one in conversations(10, 15)]
    one, two = built(tmp_path / "one", records), built(tmp_path / "two", records, learn="LastAnswer")
    assert one.manifest.fingerprint != two.manifest.fingerprint
