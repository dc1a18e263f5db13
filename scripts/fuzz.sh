#!/usr/bin/env bash
# Runs each fuzz target for FUZZ_SECONDS (60): fuzz.sh [TARGET…]. atheris is installed for this alone; where it has no
# wheel, the targets run with our plain driver, and say so. Exits with 1 where any target found something.
set -euo pipefail
cd "$(dirname "$0")/.."

python=.venv/bin/python
if ! $python -c 'import atheris' 2>/dev/null; then
  $python -m pip install --quiet --disable-pip-version-check --only-binary atheris --editable '.[fuzz]' ||
    echo "fuzz: no atheris for this Python and platform: the plain driver runs the targets" >&2
fi
targets=("$@")
((${#targets[@]})) || targets=($(ls fuzz/corpus))
mkdir -p .run/fuzz
found=()
for target in "${targets[@]}"; do
  log=.run/fuzz/$target.log
  if $python -m fuzz "$target" --seconds "${FUZZ_SECONDS:-60}" >"$log" 2>&1; then
    echo "$target: $(grep -E 'number_of_executed_units|nothing found' "$log" | tail -1), nothing found"
  else
    found+=("$target")
    echo "$target: FOUND SOMETHING, see $log"
    grep -vE '^#[0-9]' "$log" | tail -15
  fi
done
((!${#found[@]}))
