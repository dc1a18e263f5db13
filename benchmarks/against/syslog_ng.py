"""syslog-ng: a file → RFC 5424 over TCP → a file. It could only compress with TLS, which Debian builds without zlib."""

from __future__ import annotations

from against.peer import DEBIAN, End, Peer, Place, find, modules

_OPTIONS = "options { log-fifo-size(100000); };"
_LIMITS = "log-iw-size(100000) log-fetch-limit(1000)"
_RECEIVER = """\
@version: current
{options}
source net {{ syslog(transport("tcp") ip("127.0.0.1") port({port}) {limits}); }};
destination stored {{ file("{destination}" template("$MESSAGE\\n")); }};
log {{ source(net); destination(stored); flags(flow-control); }};
"""
_SHIPPER = """\
@version: current
{options}
source lines {{ file("{source}" flags(no-parse) {limits}); }};
destination forward {{ syslog("127.0.0.1" transport("tcp") port({port})); }};
log {{ source(lines); destination(forward); flags(flow-control); }};
"""


def _ends(place: Place) -> tuple[End, End]:
    receiving = _RECEIVER.format(options=_OPTIONS, limits=_LIMITS, port=place.port, destination=place.destination)
    shipping = _SHIPPER.format(options=_OPTIONS, limits=_LIMITS, port=place.port, source=place.source)
    return _end(place, "receiver", receiving), _end(place, "shipper", shipping)


def _end(place: Place, name: str, text: str) -> End:
    own = f"{place.directory}/{name}"
    command = [find("syslog-ng") or "syslog-ng", "--foreground", "--no-caps", "--cfgfile", f"{own}.conf"]
    command += ["--pidfile", f"{own}.pid", "--control", f"{own}.ctl", "--persist-file", f"{own}.persist"]
    if found := modules("syslog-ng/[0-9]*"):
        command += ["--module-path", found]
    return End([command], {f"{name}.conf": text})


PEERS = [
    Peer(
        name="syslog-ng, TCP",
        ends=_ends,
        settings=f"{_LIMITS} log-fifo-size(100000) at both ends: with the defaults it often waits a second for its "
        "next look at the file; flow-control, so that a full queue waits and does not drop; no compression: it has "
        "that with TLS alone, and Debian's OpenSSL is built without zlib",
        acks="no",
        programs={"syslog-ng": DEBIAN},
        version=["syslog-ng", "--version"],
    )
]
