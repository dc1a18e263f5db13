#!/usr/bin/env bash
# Stops the receiver and removes what the make targets made: .venv, .run, caches, results, images. Archives and spools stay.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ -x .venv/bin/python ]]; then .venv/bin/python scripts/native.py stop; fi
if timeout 5 docker version >/dev/null 2>&1; then
  scripts/docker.sh stop
  docker rm logbale-server >/dev/null 2>&1 || true
  for name in server client test; do docker rmi "logbale-$name" >/dev/null 2>&1 || true; done
fi
rm -rf .venv .run .kafka .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist bench-results demo-archive sbom.cdx.json
find . -name __pycache__ -prune -exec rm -r {} +
echo "clean; archives and spools stay (archive/, and the Docker volumes logbale-archive and logbale-spool)"
