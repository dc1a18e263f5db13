"""The files of the page: all of them are served, nothing else is needed, and they are few and light."""

import hashlib
import re
from importlib import resources
from pathlib import Path

import pytest
from serving import get, served
from test_dashboard import dashboard

ROOT = Path(str(resources.files("logbale.dashboard")))
SERVED = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.rglob("*")
    if path.suffix in {".html", ".css", ".js", ".svg"}
)  # fmt: skip
OURS = [name for name in SERVED if not name.startswith("vendor/")]
MAX_BYTES = 150_000

VENDORED = {
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "uPlot.LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
}


@pytest.fixture(scope="module")
def server():
    with served(dashboard()) as server:
        yield server


def references(path, text):
    if path.endswith(".js"):
        return re.findall(r'from "\./([^"]+)"|new URL\("([^"]+)"', text)
    return re.findall(r'(?:src|href)="(?!#)([^"]+)"()', text)


def test_the_page_and_all_it_needs_come_from_here(server):
    """From the page on, every file that is referred to is one that this server has, and there is none beside them."""
    seen, ahead = {}, [""]
    while ahead:
        path = ahead.pop()
        if path in seen:
            continue
        status, headers, body = get(server, f"/{path}")
        assert status == 200, path
        seen[path] = headers["content-type"]
        if not path.startswith(("api/", "vendor/")):
            ahead += ["".join(found) for found in references(path, body.decode())]
    assert seen[""] == "text/html; charset=utf-8"
    assert seen["style.css"] == "text/css; charset=utf-8"
    assert {kind for path, kind in seen.items() if path.endswith(".js")} == {"text/javascript; charset=utf-8"}
    assert {path for path in seen if path and not path.startswith("api/")} == set(SERVED) - {"index.html"}


def test_every_file_of_the_page_is_served(server):
    """A file that lies beside the page is part of it."""
    for name in SERVED:
        assert get(server, f"/{name}")[2] == (ROOT / name).read_bytes()


def test_the_page_is_light():
    """All that a browser loads, what others made included, is under 150 KB before any compression."""
    assert sum((ROOT / name).stat().st_size for name in SERVED) < MAX_BYTES


def test_the_page_puts_text_into_the_document_and_never_markup():
    """No script of ours knows a way to make markup or code of what it received, nor does what others made."""
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function"
    for name in SERVED:
        inline = r"|\bstyle=|\bon[a-z]+=" if name in OURS else ""
        assert not re.findall(markup + inline, (ROOT / name).read_text()), name


def test_what_others_made_is_as_they_made_it():
    """Byte for byte, with its licence, and its version said where it lies."""
    for name, digest in VENDORED.items():
        assert hashlib.sha256((ROOT / "vendor" / name).read_bytes()).hexdigest() == digest, name
    version = re.search(r"\(v([\d.]+)\)", (ROOT / "vendor/uPlot.iife.min.js").read_text())[1]
    assert f"uPlot {version}, MIT" in (ROOT / "vendor/README.md").read_text()
