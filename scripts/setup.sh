#!/usr/bin/env bash
# Makes .venv and installs what a lock file pins, and logbale itself: setup.sh REQUIREMENTS STAMP
# The stamp holds the tree's path: the Makefile starts over where that has changed.
set -euo pipefail

# Run, not looked up: python3 may be too old, or a version manager's shim for a Python that is not there.
# On Debian venv imports without the package python3-venv, and then fails for want of ensurepip.
usable='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'
recent='import sys; sys.exit(sys.version_info < (3, 11))'

find_python() {
  local candidate without_venv=
  for candidate in ${PYTHON:-python3.14 python3.13 python3.12 python3.11 python3}; do
    if "$candidate" -c "$usable" 2>/dev/null; then
      command -v "$candidate"
      return
    fi
    [[ -n $without_venv ]] || ! "$candidate" -c "$recent" 2>/dev/null || without_venv=$candidate
  done
  if [[ -n $without_venv ]]; then
    echo "$without_venv has no venv module: sudo apt-get install python3-venv" >&2
  else
    echo "no Python 3.11 or newer found (PYTHON=/path/to/python names one): sudo apt-get install python3 python3-venv" >&2
  fi
  return 1
}

requirements=$1 stamp=$2
if ! .venv/bin/python -c "$usable" 2>/dev/null || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  python=$(find_python)
  echo "setting up .venv with $("$python" --version) (once; needs the network)"
  "$python" -m venv --clear .venv
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r "$requirements"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
pwd >"$stamp"
