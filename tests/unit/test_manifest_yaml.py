"""YAML means here what it means to kubectl."""

from __future__ import annotations

import pytest

from tessera_api.yaml_documents import MOST_BYTES, YamlFault, read_documents, read_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("6e-4", 0.0006),
        ("0.5", 0.5),
        ("12", 12),
        ("-3", -3),
        ("012", 10),
        ("089", 89.0),
        ("0x1F", 31),
        ("1_000", 1000),
        ("_1", "_1"),
        ("!!str 5", "5"),
        ("1:30", "1:30"),
        ("400M", "400M"),
        ("2026-11-01", "2026-11-01"),
        ("off", False),
        ("yes", True),
        ("~", None),
        ("", None),
        ('"6e-4"', "6e-4"),
        ("'off'", "off"),
        (r'"\ud83d\ude80"', "\N{ROCKET}"),
        ("[a, 1]", ["a", 1]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
        ("a: [", "a: ["),
    ],
)
def test_a_text_means_what_it_means_to_kubectl(text: str, value: object) -> None:
    assert read_value(text) == value


def test_each_field_has_its_line() -> None:
    [first, second] = read_documents("a:\n  b:\n    - c: 1\n---\nd: 2\n", "x.yaml")

    assert (first.line(("a", "b", 0, "c")), first.line(("a", "z")), second.line(("d",))) == (3, 1, 5)


def test_a_key_that_stands_twice_is_a_fault_wherever_it_is() -> None:
    [document] = read_documents("a: {b: 1, b: 2}\nc:\n  - d: 1\n    d: 2\n", "x.yaml")

    assert document.faults == (
        YamlFault(1, "a.b", 'key "b" already set in map'),
        YamlFault(4, "c[0].d", 'key "d" already set in map'),
    )


def test_aliases_may_repeat_a_value_but_not_hold_themselves() -> None:
    [repeated] = read_documents("a: &x {b: 1}\nc: *x\n", "x.yaml")
    [endless] = read_documents("a: &x\n  b: *x\n", "x.yaml")

    assert repeated.value == {"a": {"b": 1}, "c": {"b": 1}}
    assert [fault.path for fault in endless.faults] == ["a.b"]


def test_aliases_cannot_make_a_document_explode() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))

    [document] = read_documents(bomb, "x.yaml")

    assert document.faults[0].problem == "aliases make it endless or larger than 100000 nodes"


@pytest.mark.parametrize("text", ["? [a]\n: 1\n", "a: !!python/object:os.system x\n", "a: !mine x\n", "a: !mine {}\n"])
def test_keys_that_are_no_text_and_foreign_tags_are_faults(text: str) -> None:
    [document] = read_documents(text, "x.yaml")

    assert len(document.faults) == 1


def test_a_file_that_is_too_large_is_not_read() -> None:
    [document] = read_documents("a" * (MOST_BYTES + 1), "x.yaml")

    assert document.value is None
    assert document.faults[0].problem == f"the file is larger than {MOST_BYTES} bytes"
