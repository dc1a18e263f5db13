"""The prose against the code: its commands exist, its links lead somewhere, its example bytes and its client work."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import click
import pytest

from logbale.cli import app
from logbale.protocol import Algorithm, FrameDecoder

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def tracked_files():
    """What belongs to the tree: what git lists in a checkout, else every file but what tools leave behind."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
        return [path for name in names if (path := ROOT / name).is_file()]
    hidden = {".git", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".run", ".venv", "__pycache__"}
    return [path for path in ROOT.rglob("*") if path.is_file() and not hidden & set(path.parts)]


def commands(text):
    """The logbale command lines in a page, as words: indented lines that start with it, and `inline` ones."""
    lines = re.findall(r"^ {4}(?:\S+ \| )?(?:\.venv/bin/)?logbale (.+)$", text, re.MULTILINE)
    lines += re.findall(r"`(?:\.venv/bin/)?logbale ([a-z][^`]*)`", text)
    return [shlex.split(re.split(r" {2,}| \| ", line)[0]) for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_in_a_page_exists(page):
    """Each `logbale …` names a command and flags that it has; each `make …` a target."""
    text = page.read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())
    for words in commands(text):
        command = app
        while isinstance(command, click.Group) and words:
            name = words.pop(0)
            found = command.get_command(click.Context(command), name)
            assert found, f"logbale {name}"
            command = found
        known = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)} | {"--help"}
        flags = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert flags <= known, f"logbale {command.name}: {flags - known}"
    made = re.findall(r"^ {4}(?:[A-Z_]+=\S+ )*make ([\w-]+)", text, re.MULTILINE)
    made += re.findall(r"`[^`]*\bmake ([\w-]+)", text)
    assert set(made) <= targets


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_leads_somewhere(page):
    """A relative link names a file that is there."""
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_page_is_listed():
    """docs/README.md leads to each page below docs/."""
    index = (ROOT / "docs/README.md").read_text()
    for page in ROOT.glob("docs/**/*.md"):
        name = str(page.relative_to(ROOT / "docs"))
        assert name == "README.md" or f"]({name})" in index, name


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/decisions/*.md")), ids=lambda page: page.name)
def test_a_decision_is_short_and_complete(page):
    """Forty lines at most, with context, decision, alternatives, consequences and evidence."""
    text = page.read_text()
    assert len(text.splitlines()) <= 40
    for part in ("Context", "Decision", "Alternatives", "Consequences", "Evidence"):
        assert f"**{part}" in text, part


def test_nothing_in_the_tree_knows_where_it_was_made():
    """No file names a path of a developer's machine or the host of a package registry."""
    places = [
        "/" + "work/",
        "/" + "root/",
        "../" + "shared",
        "pypi" + ".org",
        "pythonhosted" + ".org",
        "npmjs" + ".org",
    ]
    found = []
    for path in tracked_files():
        content = path.read_bytes()
        found += [f"{path.relative_to(ROOT)}: {place}" for place in places if place.encode() in content]
    assert found == []


# docs/protocol.md


def protocol_page():
    return (ROOT / "docs/protocol.md").read_text()


def test_the_example_bytes_are_what_the_page_says():
    """Both example frames decode to the entry above them."""
    section = protocol_page().split("## An example, byte by byte")[1].split("\n## ")[0]
    lines = re.findall(r"^ {4}((?:[0-9a-f]{2} )*[0-9a-f]{2})(?: {2,}.*)?$", section, re.MULTILINE)
    decoder = FrameDecoder(max_frame=1000)
    decoder.feed(bytes.fromhex("".join(lines)))
    raw, compressed = decoder.frames()
    entry = json.loads(re.search(r"`(\{.*?\})`", section)[1])
    assert raw.algorithm is Algorithm.NONE
    assert json.loads(raw.payload) == [entry]
    assert compressed.algorithm is Algorithm.ZLIB
    assert zlib.decompress(compressed.payload) == raw.payload


def test_the_example_client_is_stored(tmp_path):
    """The client of the page runs as it stands, against a receiver on another port."""
    client = re.search(r"```python\n(.*?)```", protocol_page(), re.DOTALL)[1]
    logbale = [sys.executable, "-m", "logbale"]
    command = [*logbale, "receive", "--listen", "127.0.0.1:0", "--archive", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as receiver:
        try:
            port = next(match[1] for line in receiver.stderr if (match := re.search(r"listening on \S+:(\d+)", line)))
            assert "5000" in client
            run = subprocess.run(
                [sys.executable, "-c", client.replace("5000", port)],
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert run.stdout == "stored\n", run.stderr
        finally:
            receiver.terminate()
            receiver.communicate(timeout=120)
    stored = subprocess.run([*logbale, "cat", str(tmp_path)], capture_output=True, text=True, timeout=120, check=True)
    assert [json.loads(line)["message"] for line in stored.stdout.splitlines()] == [f"request {n}" for n in range(1000)]
