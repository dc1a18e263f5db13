"""Writes what is installed where logbale runs, with licences and who needs what (CycloneDX, JSON): `sbom.py FILE`.

Of an environment that holds what requirements.txt pins for this Python and platform, and logbale; nothing of the tools.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from logbale import __version__

ROOT = Path(__file__).resolve().parent.parent


def main(bill_file: Path) -> int:
    """The exit code."""
    with tempfile.TemporaryDirectory() as directory:
        python = Path(directory) / "venv" / "bin" / "python"
        run(sys.executable, "-m", "venv", "--without-pip", python.parent.parent)
        pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check")
        run(*pip, "--only-binary", ":all:", "--require-hashes", "-r", ROOT / "requirements.txt")
        run(*pip, "--no-deps", ROOT)
        written = Path(directory) / "bill.json"
        options = ("--pyproject", ROOT / "pyproject.toml", "--output-reproducible", "--output-format", "JSON")
        run(sys.executable, "-m", "cyclonedx_py", "environment", *options, "--output-file", written, python)
        bill = json.loads(written.read_text())
    bill["metadata"]["component"]["version"] = __version__  # the tool reads no dynamic one
    bill_file.write_text(json.dumps(bill, indent=2, sort_keys=True) + "\n")
    print(f"{bill_file.name}: logbale {__version__} and {len(bill['components'])} packages")
    return 0


def run(*command: object) -> None:
    """Raises CalledProcessError."""
    subprocess.run([str(part) for part in command], check=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
