#!/usr/bin/env bash
# Runs one make target in Docker or natively, and says which in its first line: runtime.sh TARGET
set -euo pipefail
cd "$(dirname "$0")/.."
target=$1

# All of them two at a time, and for that each to its own files and ports; one that is named runs whatever its marks.
case $target in
  test) export ARGS=${ARGS:-'-n 2 --dist worksteal -m "not long"'} ;;
  test-long) export ARGS=${ARGS:-'-n 2 --dist loadgroup -m long'} ;;
esac

engine() {
  timeout 5 docker version --format '{{.Server.Version}}' 2>/dev/null
}

case ${RUNTIME:-} in
  native) echo "$target: native (RUNTIME=native)" ;;
  docker)
    if ! version=$(engine); then
      echo "RUNTIME=docker: no Docker engine answers; start one, or use RUNTIME=native" >&2
      exit 1
    fi
    echo "$target: Docker $version (RUNTIME=docker)"
    exec scripts/docker.sh "$target"
    ;;
  "")
    if [[ $target == test* ]]; then
      echo "$target: native (RUNTIME=docker runs it in a container)"
    elif version=$(engine); then
      echo "$target: Docker $version (RUNTIME=native runs it without)"
      exec scripts/docker.sh "$target"
    else
      echo "$target: native, no Docker engine answers"
    fi
    ;;
  *)
    echo "RUNTIME='$RUNTIME': expected docker or native" >&2
    exit 2
    ;;
esac

export PYTHONUNBUFFERED=1 # what is printed through a pipe or into a log is seen at once
case $target in
  build) make -s --no-print-directory .venv/ready && echo ".venv is ready" ;;
  test | test-long) make -s --no-print-directory .venv/ready-dev && eval "exec .venv/bin/pytest $ARGS" ;;
  benchmark)
    make -s --no-print-directory .venv/ready-dev
    mkdir -p bench-results
    eval "exec .venv/bin/python benchmark.py --chart bench-results/benchmark.png ${ARGS:-}"
    ;;
  *) make -s --no-print-directory .venv/ready && exec .venv/bin/python scripts/native.py "$target" ;;
esac
