#!/usr/bin/env bash
# Writes requirements.txt (to run logbale), requirements-kafka.txt (the same with Kafka) and requirements-dev.txt (to
# work on it): exact versions and hashes for every Python from 3.11 on and every platform, resolved from pyproject.toml.
# uv is used because pip locks for one Python only.
set -euo pipefail
cd "$(dirname "$0")/.."

make -s --no-print-directory .venv/ready
.venv/bin/python -m venv --clear .run/lock
.run/lock/bin/python -m pip install --quiet --disable-pip-version-check uv
compile=(.run/lock/bin/uv --no-config pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes)
export UV_CUSTOM_COMPILE_COMMAND="make lock"
"${compile[@]}" pyproject.toml --output-file requirements.txt
"${compile[@]}" pyproject.toml --extra kafka --constraint requirements.txt --output-file requirements-kafka.txt
"${compile[@]}" pyproject.toml --extra dev --constraint requirements.txt --output-file requirements-dev.txt
rm -r .run/lock
