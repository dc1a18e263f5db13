#!/usr/bin/env bash
# The make targets with a Docker engine: docker.sh build|run|client|logs|stop|benchmark|test|test-long
# Plain docker, since an engine often comes without compose; docker-compose.yml describes the same containers.
set -euo pipefail

container=logbale-server
archive=logbale-archive
spool=logbale-spool
hardened=(--read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges)

# Every setting that has a value here is handed on by name; .env.example lists them all.
settings=()
while read -r name; do
  [[ -z ${!name:-} ]] || settings+=(--env "$name")
done < <(sed -nE 's/^#? ?([A-Z][A-Z_]*)=.*/\1/p' .env.example)

image() { # builds the image, quickly where nothing has changed
  [[ -n $(docker images -q "logbale-$1") ]] || echo "building logbale-$1 (once; takes a minute or two)"
  local output
  output=$(docker build --quiet --tag "logbale-$1" --file "$2" . 2>&1) || { echo "$output" >&2 && return 1; }
}

running() {
  [[ $(docker inspect --format '{{.State.Running}}' "$container" 2>/dev/null) == true ]]
}

published() { # where the host reaches the receiver
  docker port "$container" 5000/tcp | head -n 1
}

bracketed() { # an IPv6 address as ports are published on it
  [[ $1 == *:* ]] && echo "[$1]" || echo "$1"
}

bind() { # mounts the directory that a setting names, to be used as whoever calls this
  mkdir -p "${!1}"
  options+=(--volume "$(realpath "${!1}"):$2" --env "$1=$2" --user "$(id -u):$(id -g)")
}

run() {
  if running; then
    echo "already running, published on $(published); make logs shows entries, make stop ends it"
    return
  fi
  image server Dockerfile
  docker rm "$container" >/dev/null 2>&1 || true
  # Inside, it listens everywhere, on 5000; what the settings name is where the host publishes that (0: anywhere).
  local port=${SERVER_PORT:-5000} options=(--env SERVER_HOST=0.0.0.0 --env SERVER_PORT=5000)
  options+=(--publish "$(bracketed "${SERVER_HOST:-0.0.0.0}"):${port#0}:5000")
  local page=${DASHBOARD_PORT:-8080} page_address
  page_address=$(bracketed "${DASHBOARD_HOST:-127.0.0.1}")
  local page_options=(--env DASHBOARD_HOST=0.0.0.0)
  # Inside it is open to whoever gets there; from outside only this host does, unless DASHBOARD_HOST says otherwise.
  case "$page_address ${DASHBOARD_PASSWORD_FILE:-}" in
    "127."*" " | "[::1] " | "localhost ") page_options+=(--env DASHBOARD_OPEN=true) ;;
  esac
  if [[ ${DASHBOARD_ENABLED:-} =~ ^(1|true|yes|on)$ ]]; then
    options+=(--publish "$page_address:$page:$page" "${page_options[@]}")
  fi
  if [[ ${METRICS_PORT:-0} != 0 ]]; then
    options+=(--publish "$page_address:$METRICS_PORT:$METRICS_PORT" "${page_options[@]}")
  else
    options+=(--env METRICS_PORT=9100) # for the health check alone
  fi
  if [[ -n ${ARCHIVE_DIR:-} ]]; then
    bind ARCHIVE_DIR /archive
  else
    options+=(--volume "$archive:/archive")
  fi
  docker run --detach --name "$container" "${hardened[@]}" --log-opt max-size=10m --log-opt max-file=3 \
    "${settings[@]}" "${options[@]}" logbale-server >/dev/null
  for _ in {1..100}; do
    if docker logs "$container" 2>&1 | grep -q 'listening on'; then
      echo "running, published on $(published), archive in ${ARCHIVE_DIR:-the volume $archive}"
      echo "make client ships entries to it, make logs shows them, make stop ends it"
      return
    fi
    running || break
    sleep 0.1
  done
  echo "the receiver did not start; it says:" >&2
  docker logs "$container" >&2
  return 1
}

client() {
  image client Dockerfile.client
  local options=(--rm --interactive)
  [[ ! -t 1 ]] || options+=(--tty)
  local here=no
  case ${SERVER_HOST:-} in "" | 0.0.0.0 | :: | ::1 | 127.* | localhost) here=yes ;; esac
  if [[ $here == yes ]] && running && [[ $(published) == *:${SERVER_PORT:-*} ]]; then
    options+=(--network "container:$container" --env SERVER_HOST=127.0.0.1 --env SERVER_PORT=5000)
  else
    [[ $here == no || -n ${RECEIVERS:-} ]] ||
      echo "no receiver runs there: make run starts one, in another terminal; the client waits for one on this host's port" \
        "${SERVER_PORT:-5000}, and gives up ${DRAIN_TIMEOUT:-10} s after it has nothing more to read"
    options+=(--network host)
  fi
  case ${SPOOL_DIR:-} in
    "") options+=(--volume "$spool:/spool") ;;
    off) ;;
    *) bind SPOOL_DIR /spool ;;
  esac
  # Its health check is for one that stays: this one shares a network in which its port may be taken.
  [[ ${METRICS_PORT:-0} != 0 ]] || options+=(--env METRICS_PORT=0 --no-healthcheck)
  docker run "${hardened[@]}" "${settings[@]}" "${options[@]}" logbale-client
}

case $1 in
  build)
    for name in server:Dockerfile client:Dockerfile.client test:Dockerfile.test; do
      docker build --tag "logbale-${name%:*}" --file "${name#*:}" .
    done
    ;;
  run) run ;;
  client) client ;;
  logs)
    trap 'exit 0' INT
    if docker inspect "$container" >/dev/null 2>&1; then
      docker logs --follow --tail 100 "$container"
    fi
    running || echo "no receiver runs: make run starts one"
    ;;
  stop)
    if running; then
      # Docker kills what takes longer; the receiver's own deadline is DRAIN_TIMEOUT.
      docker stop --time 30 "$container" >/dev/null
      echo "stopped"
    else
      echo "no receiver runs"
    fi
    ;;
  benchmark)
    image test Dockerfile.test
    mkdir -p bench-results
    eval "docker run --rm --user $(id -u):$(id -g) --volume '$PWD/bench-results:/app/bench-results' \
      logbale-test python benchmark.py --chart bench-results/benchmark.png ${ARGS:-}"
    ;;
  test | test-long)
    image test Dockerfile.test
    eval "exec docker run --rm logbale-test pytest ${ARGS:-}"
    ;;
esac
