#!/usr/bin/env bash
# Unpacks the programs that `make bench-peers` compares with into .run/peers, and installs nothing: Debian's rsyslog and
# syslog-ng conflict with each other and start as services, and neither may happen to the machine that measures.
# What cannot be had is said and left out; the benchmark names it in its table.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(rsyslog rsyslog-relp syslog-ng-core netcat-openbsd zstd)
place=.run/peers

if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
  echo "peers: no apt-get here: what is on PATH is compared (${packages[*]} would be fetched on Debian)" >&2
  exit
fi
if ! apt-cache show "${packages[@]}" >/dev/null 2>&1; then
  apt-get update -qq || echo "peers: apt-get update failed (it needs root and the network)" >&2
fi
mkdir -p "$place/debs"
for package in "${packages[@]}"; do
  [[ ! -e $place/$package.ready ]] || continue
  # What it needs and the machine has not got: the lines "Inst NAME …" of an installation that is only simulated. Each
  # package alone, because of the conflict; what it would remove (Remv) is not looked at.
  needed=$(apt-get install --simulate --no-install-recommends "$package" 2>/dev/null | sed -n 's/^Inst \([^ ]*\).*/\1/p')
  wanted=$(printf '%s\n' "$package" $needed | sort -u)
  if (cd "$place/debs" && rm -f ./*.deb && apt-get download -qq -o APT::Sandbox::User=root $wanted); then
    for deb in "$place"/debs/*.deb; do dpkg-deb --extract "$deb" "$place/root"; done
    touch "$place/$package.ready"
  else
    echo "peers: $package is left out: apt-get download $package failed" >&2
  fi
done
rm -rf "$place/debs"
