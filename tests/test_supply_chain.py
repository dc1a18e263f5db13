"""What logbale is made of: nothing with a known advisory, never called clean unaudited, and listed as a whole."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent

LAST_BAD = {
    "anyio": ("4.14.1", "CVE-2026-63374"),
    "click": ("8.3.2", "CVE-2026-7246"),
    "h11": ("0.15.0", "CVE-2025-43859"),
    "idna": ("3.14", "CVE-2026-45409"),
    "markdown-it-py": ("2.1.0", "CVE-2023-26302"),
    "psutil": ("5.6.5", "CVE-2019-18874"),
    "pygments": ("2.19.2", "CVE-2026-4539"),
    "starlette": ("1.3.0", "CVE-2026-54283"),
    "uvicorn": ("0.11.6", "CVE-2020-7694"),
}
"""The newest version of each that has a known advisory, and the advisory."""


def canonical(name):
    return re.sub(r"[._]", "-", name.lower())


def bounds():
    """What pyproject.toml asks for, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {canonical(one.name): one.specifier for one in map(Requirement, project["dependencies"])}


LAST_BAD_OF_EXTRAS = {"cryptography": ("46.0.4", "CVE-2026-26007")}


def extras():
    """What the extras ask for, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [one for extra in project["optional-dependencies"].values() for one in map(Requirement, extra)]
    return {canonical(one.name): one.specifier for one in wanted}


def locked(name="requirements.txt"):
    """What a lock file pins, by name."""
    text = (ROOT / name).read_text()
    return {canonical(name): Version(version) for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)}


@pytest.mark.parametrize("name", LAST_BAD)
def test_no_version_with_a_known_advisory_is_let_in(name):
    """Neither by the lock file, which the images go by, nor by pyproject.toml, which other installations go by."""
    version, advisory = LAST_BAD[name]
    for lock in ("requirements.txt", "requirements-dev.txt", "requirements-kafka.txt"):
        assert locked(lock)[name] > Version(version), (lock, advisory)
    if name == "markdown-it-py":  # rich asks for a newer one
        return
    assert not bounds()[name].contains(version), advisory


@pytest.mark.parametrize("name", LAST_BAD_OF_EXTRAS)
def test_no_extra_lets_in_a_version_with_a_known_advisory(name):
    """What only some need is bounded too."""
    version, advisory = LAST_BAD_OF_EXTRAS[name]
    assert not extras()[name].contains(version), advisory
    assert locked("requirements-dev.txt").get(name, Version("999")) > Version(version), advisory


def test_whatever_is_locked_is_audited():
    """A lock file that came later is no exception."""
    text = (ROOT / "scripts/audit.py").read_text()
    assert set(re.findall(r'"(requirements[\w-]*\.txt)"', text)) == {
        path.name for path in ROOT.glob("requirements*.txt")
    }


# pip-audit

ANSWERS = {
    "unreachable": "sys.exit('requests.exceptions.ConnectionError: no route to host')",
    "blind": "answer({'name': 'any', 'skip_reason': 'Dependency not found'})",
    "ignorant": "answer({'name': 'any', 'version': '1', 'vulns': []})",
    "clean": "answer({'name': 'any', 'version': '1', 'vulns': [BAD] if 'known' in lock else []})",
    "finding": "answer({'name': 'any', 'version': '1', 'vulns': [BAD]}, code=1)",
}
FAKE = """
import json, sys
lock = sys.argv[sys.argv.index("--requirement") + 1]
BAD = {"id": "CVE-1", "fix_versions": ["2"]}
def answer(*dependencies, code=0):
    print(json.dumps({"dependencies": dependencies}))
    sys.exit(code)
"""


def audit(directory, kind, **environ):
    """scripts/audit.py with a pip-audit that answers like this."""
    (directory / "pip_audit.py").write_text(FAKE + ANSWERS[kind])
    return subprocess.run(
        [sys.executable, ROOT / "scripts/audit.py"],
        env=os.environ | {"PYTHONPATH": str(directory)} | environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("unreachable", "no route to host"),
        ("blind", "the service does not know 1 of 1: Dependency not found"),
        ("ignorant", "the service knows no advisory on starlette==0.48.0, which has one"),
    ],
)
def test_what_could_not_be_audited_is_not_called_clean(tmp_path, kind, reason):
    """The last line says that nothing was audited, and why; where an audit is required, that is a failure."""
    result = audit(tmp_path, kind)
    assert result.returncode == 0
    assert result.stdout.startswith("pip-audit: SKIPPED, nothing was audited: ")
    assert reason in result.stdout
    assert audit(tmp_path, kind, AUDIT="required").returncode == 1


def test_a_finding_is_named_and_fails(tmp_path):
    """With the version that mends it."""
    result = audit(tmp_path, "finding")
    assert result.returncode == 1
    assert "any 1: CVE-1, fixed in 2\n" in result.stdout


def test_an_audit_that_finds_nothing_says_so(tmp_path):
    """Once the service has shown that it would know."""
    result = audit(tmp_path, "clean", AUDIT="required")
    assert result.returncode == 0
    assert (
        result.stdout
        == "pip-audit: 0 known advisories on requirements.txt, requirements-dev.txt, requirements-kafka.txt\n"
    )


# bandit


def test_every_exception_has_its_reason_beside_it():
    """Of whole checks in pyproject.toml, and of single lines in the code."""
    table = re.search(r"^\[tool\.bandit\]\n(.*?)^\[", (ROOT / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE)[
        1
    ]
    skips = re.findall(r'^  "B\d+",(.*)$', table, re.MULTILINE)
    assert skips
    assert all(re.fullmatch(r"  # .{20,}", reason) for reason in skips)
    for path in (ROOT / "src").rglob("*.py"):
        for line in re.findall(r"# nosec.*", path.read_text()):
            assert re.fullmatch(r"# nosec B\d+  # .{10,}", line), f"{path}: {line}"


# The bill of materials


@pytest.mark.long
def test_the_bill_of_materials_has_everything_that_is_pinned(tmp_path):
    """Each package of requirements.txt for this Python, with its version, its licence and what it needs."""
    bill = tmp_path / "bill.json"
    command = [sys.executable, ROOT / "scripts/sbom.py", bill]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    if done.returncode and re.search(r"No matching distribution|Connection|name resolution", done.stderr):
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr
    written = json.loads(bill.read_text())
    assert (written["bomFormat"], written["metadata"]["component"]["name"]) == ("CycloneDX", "logbale")
    found = {canonical(one["name"]): one for one in written["components"]}
    optional = {"backports-zstd"} if sys.version_info >= (3, 14) else set()
    assert locked().keys() - optional <= found.keys() <= locked().keys()
    assert all(Version(one["version"]) == locked()[name] and one["licenses"] for name, one in found.items())
    needs = {one["ref"]: one.get("dependsOn", []) for one in written["dependencies"]}
    assert any(ref.startswith("h11==") for ref in needs[found["uvicorn"]["bom-ref"]])
    assert str(ROOT) not in json.dumps(written)
