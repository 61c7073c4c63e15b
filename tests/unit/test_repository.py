"""The repository's promises about itself: what the docs name exists, the lock is whole, the house budgets hold."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from itertools import pairwise
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tessera_api.manifest import load_manifests
from tessera_cli.__main__ import main as tessera

ROOT = Path(__file__).parents[2]
DOCS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "docs/architecture.md")]
ROOMS = ("crds", "operator", "trainer_image")
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FILE_LINES, FUNCTION_LINES = 400, 60
_HIDDEN = {".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".import_linter_cache", ".tessera"}

# Written as patterns, so that this file does not hold what it looks for.
HOSTS = re.compile(r"pypi\.org|pythonhosted\.org|proxy\.golang\.org|registry\.npmjs\.org|deb\.debian\.org|crates\.io")
PLACES = re.compile(r"(?<![\w.{}$])/(?:work|root|home|tmp)/[\w.]")


@cache
def tracked() -> list[Path]:
    """Files that are, or would be, committed; in a copy without git, everything outside hidden folders."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
        found = [ROOT / line for line in listing.stdout.splitlines()]
    else:
        found = [path for path in ROOT.rglob("*") if not _HIDDEN.intersection(path.relative_to(ROOT).parts)]
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


def sources() -> list[Path]:
    """Every Python file of the repository."""
    return [path for path in tracked() if path.suffix == ".py"]


def make_targets() -> dict[str, str]:
    """What the Makefile can make, with each target's description (empty where there is none)."""
    rules = re.findall(r"^([a-z][a-z0-9-]*):[^#\n]*(?:## (.*))?$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return dict(rules)


WORK = {".tessera", "runs"}
"""Folders of the commands' own output, which git ignores."""


def named_paths(document: Path) -> Iterator[str]:
    """Paths that a document names in backticks or code (from the root) or links to (from its own folder)."""
    text = document.read_text()
    # What users' own runs leave here is no part of the repository: it is there once they have run something.
    folders = "|".join(re.escape(path.name) for path in ROOT.iterdir() if path.is_dir() and path.name not in WORK)
    for name in re.findall(rf"`((?:{folders})/[\w./*-]*|[A-Z]\w+(?:\.md)?|\w+\.(?:toml|lock))`", text):
        if "/" in name or (ROOT / name).suffix or name in {"Makefile", "LICENSE"}:
            yield name
    for line in re.findall(r"^ {4}.*", text, re.MULTILINE):
        yield from re.findall(rf" ((?:{folders})/[\w./-]+)", line)
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        yield str((document.parent / link).resolve().relative_to(ROOT))


def commands(document: Path, program: str) -> list[str]:
    """First words after `program` in a document's code."""
    return re.findall(rf"(?:^ {{4}}|`)(?:\.venv/bin/)?{program} ([a-z][a-z0-9-]*)", document.read_text(), re.MULTILINE)


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_every_path_that_the_docs_name_exists(document: Path) -> None:
    named = set(named_paths(document))
    assert named, "no path was found in it: the pattern is wrong"
    assert {name for name in named if not list(ROOT.glob(name.rstrip("/")))} == set()


def test_every_file_of_the_table_to_change_x_open_y_is_code_or_configuration() -> None:
    table = (ROOT / "docs/architecture.md").read_text().split("## To change X, open Y")[1]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 10
    code = re.compile(r"`(?:[\w/]+\.py|Makefile|charts/[\w/.]+\.yaml)`")
    without = [row for row in rows if not code.search(row.split("|")[2]) and "RULES" not in row]
    assert without == []


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_every_make_target_that_the_docs_name_exists(document: Path) -> None:
    assert set(commands(document, "make")) - set(make_targets()) == set()


def test_the_readme_shows_demo_and_test() -> None:
    assert {"demo", "test"} <= set(commands(ROOT / "README.md", "make"))


@pytest.mark.parametrize("command", sorted({word for path in DOCS for word in commands(path, "tessera")}))
def test_every_command_that_the_docs_name_exists(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tessera([command, "--help"])
    assert (ended.value.code, f"tessera {command}" in capsys.readouterr().out) == (0, True)


def test_every_option_that_the_readme_names_exists(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("local", "drill"):
        with pytest.raises(SystemExit):
            tessera([command, "--help"])
    understood = capsys.readouterr().out
    ours = "\n".join(
        line for line in README.replace("\\\n", " ").splitlines() if not re.match(" +(helm|kubectl) ", line)
    )
    named = set(re.findall(r"[ `](--[a-z]+)", ours))
    assert named, "no option was found: the pattern is wrong"
    assert {option for option in named if option not in understood} == set()


def test_the_manifests_and_overrides_that_the_readme_shows_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    shown = re.findall(r"^ {4}\.venv/bin/tessera local (.*)$", README.replace("\\\n", " "), re.MULTILINE)
    kinds = []
    for arguments in shown:
        words = shlex.split(arguments)
        sets = [value for option, value in pairwise(words) if option == "--set"]
        resources = load_manifests([Path(word) for word in words if word.endswith(".yaml")], sets)
        kinds.append([resource.kind for resource in resources])
    assert kinds == [["DatasetBuild", "TrainingRun"]] * 2


def test_make_help_lists_every_target() -> None:
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    ).stdout
    assert {line.split()[0]: line.split(maxsplit=1)[1] for line in shown.splitlines()} == make_targets()


def test_every_target_is_phony() -> None:
    assert set(re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)) == set(make_targets())


@cache
def locked() -> dict[str, str]:
    """Name and version of everything that the lock names for this machine."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    wanted = [Requirement(line.rstrip("\\ ")) for line in lines if line and not line.startswith((" ", "#"))]
    here = [each for each in wanted if each.marker is None or each.marker.evaluate()]
    return {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in here}


@cache
def required() -> dict[str, set[str]]:
    """All that the project and its extras need here, followed through the installed packages, with the bounds."""
    project = PROJECT["project"]
    todo = [Requirement(line) for line in project["dependencies"]]
    todo += [Requirement(line) for lines in project["optional-dependencies"].values() for line in lines]
    bounds: dict[str, set[str]] = {}
    seen: set[tuple[str, str]] = set()
    while todo:
        wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        bounds.setdefault(name, set()).add(str(wanted.specifier))
        for extra in {"", *wanted.extras} - {extra for of, extra in seen if of == name}:
            seen.add((name, extra))
            needs = [Requirement(line) for line in metadata.distribution(name).requires or []]
            todo += [each for each in needs if each.marker is None or each.marker.evaluate({"extra": extra})]
    return bounds


def test_the_lock_holds_exactly_what_the_project_needs() -> None:
    assert sorted(required()) == sorted(locked())


def test_every_locked_version_is_within_all_bounds() -> None:
    versions = locked()
    bounds = [Requirement(f"{name}{bound}") for name, bounds in required().items() for bound in bounds]
    broken = [str(each) for each in bounds if not each.specifier.contains(versions[each.name], prereleases=True)]
    assert broken == []


def test_what_is_installed_is_what_is_locked() -> None:
    assert {name: metadata.version(name) for name in locked()} == locked()


@pytest.mark.parametrize("lock", ["requirements.lock", "scripts/bootstrap.lock"])
def test_every_locked_package_has_hashes_and_no_address(lock: str) -> None:
    packages = re.split(r"^(?=\w)", (ROOT / lock).read_text(), flags=re.MULTILINE)[1:]
    assert [text.splitlines()[0] for text in packages if "--hash=sha256:" not in text or "://" in text] == []


def test_no_tracked_file_names_a_registry_or_a_place_of_this_machine() -> None:
    found = []
    for path in tracked():
        text = path.read_text(errors="replace")
        found += [
            f"{path.relative_to(ROOT)}: {hit[0]}" for pattern in (HOSTS, PLACES) for hit in pattern.finditer(text)
        ]
    assert found == []


def test_the_changelog_has_the_version_of_the_project() -> None:
    assert f"## [{PROJECT['project']['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_licence_is_the_one_that_the_project_names() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text


def test_no_file_is_longer_than_the_house_allows() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources()}
    assert {name: lines for name, lines in lengths.items() if lines > FILE_LINES} == {}


def test_no_function_is_longer_than_the_house_allows() -> None:
    lengths = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES} == {}


def test_every_module_of_the_rooms_says_what_it_owns() -> None:
    modules = [path for path in sources() if path.relative_to(ROOT).parts[0] in ROOMS]
    assert [str(path) for path in modules if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_no_module_is_named_after_nothing() -> None:
    empty = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "base"}
    assert [str(path) for path in sources() if path.stem in empty] == []


def test_operator_and_the_test_folders_are_plain_folders() -> None:
    plain = [ROOT / "operator", *[path for path in (ROOT / "tests").rglob("*") if path.is_dir()]]
    assert [str(folder) for folder in plain if (folder / "__init__.py").exists()] == []


def test_no_two_test_files_share_a_name() -> None:
    names = Counter(path.name for path in sources() if path.name.startswith("test_"))
    assert {name: count for name, count in names.items() if count > 1} == {}


@pytest.mark.parametrize(
    ("package", "others"),
    [
        ("trainer_image/tessera_run", set[str]()),
        ("crds/tessera_api", {"pydantic", "pydantic_core", "yaml"}),
    ],
)
def test_the_narrow_rooms_import_little(package: str, others: set[str]) -> None:
    folder = ROOT / package
    imported = {name for path in folder.rglob("*.py") for name in top_imports(path)}
    assert imported - set(sys.stdlib_module_names) - {folder.name} <= others


def top_imports(path: Path) -> Iterator[str]:
    """First names of everything that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]
