"""rsyslog: imfile → omfwd with a zlib stream → imptcp → omfile, and the same over RELP."""

from __future__ import annotations

from against.peer import DEBIAN, End, Peer, Place, find, modules

# The message as it was: by default rsyslog writes control characters, such as tabs, as #011.
_GLOBAL = 'global(workDirectory="{work}" parser.escapeControlCharactersOnReceive="off")'
_RECEIVER = """\
{globals}
module(load="{module}")
template(name="line" type="string" string="%msg%\\n")
input(type="{module}" address="127.0.0.1" port="{port}"{settings} ruleset="store")
ruleset(name="store") {{
    action(type="omfile" file="{destination}" template="line")
}}
"""
_SHIPPER = """\
{globals}
module(load="imfile")
{load}input(type="imfile" file="{source}" tag="lines" ruleset="forward")
ruleset(name="forward") {{
    action(type="{module}" target="127.0.0.1" port="{port}" template="RSYSLOG_SyslogProtocol23Format"{settings})
}}
"""


def _ends(place: Place, receiver: tuple[str, str], shipper: tuple[str, str]) -> tuple[End, End]:
    """Each end is a module and its settings."""
    work = {end: place.directory / end for end in ("receiver", "shipper")}
    for directory in work.values():
        directory.mkdir()
    receiving = _RECEIVER.format(
        globals=_GLOBAL.format(work=work["receiver"]),
        module=receiver[0],
        settings=receiver[1],
        port=place.port,
        destination=place.destination,
    )
    shipping = _SHIPPER.format(
        globals=_GLOBAL.format(work=work["shipper"]),
        load="" if shipper[0] == "omfwd" else f'module(load="{shipper[0]}")\n',
        module=shipper[0],
        settings=shipper[1],
        port=place.port,
        source=place.source,
    )
    return _end(place, "receiver", receiving), _end(place, "shipper", shipping)


def _end(place: Place, name: str, text: str) -> End:
    command = [find("rsyslogd") or "rsyslogd", "-n", "-f", f"{place.directory}/{name}.conf"]
    command += ["-i", f"{place.directory}/{name}.pid"]
    if found := modules("*/rsyslog"):
        command += ["-M", found]
    return End([command], {f"{name}.conf": text})


def _zlib(place: Place, level: str) -> tuple[End, End]:
    stream = ' compression.mode="stream:always"'
    return _ends(place, ("imptcp", stream), ("omfwd", f' protocol="tcp"{stream}{level}'))


def _relp(place: Place) -> tuple[End, End]:
    return _ends(place, ("imrelp", ""), ("omrelp", ' windowSize="10000"'))


_FOUND = {"programs": {"rsyslogd": DEBIAN}, "version": ["rsyslogd", "-v"]}
PEERS = [
    Peer(
        name="rsyslog, zlib stream",
        ends=lambda place: _zlib(place, ""),
        settings='compression.mode="stream:always"; ZipLevel is its default, 9; by default several workers share its '
        "queue (queue.workerThreads), and lines change places",
        acks="no",
        **_FOUND,
    ),
    Peer(
        name="rsyslog, zlib stream, level 6",
        ends=lambda place: _zlib(place, ' ZipLevel="6"'),
        settings='the same with ZipLevel="6", as gzip -6 and logbale have',
        acks="no",
        **_FOUND,
    ),
    Peer(
        name="rsyslog, RELP",
        ends=_relp,
        settings='windowSize="10000": with its default, 128, it waits 40 ms (a delayed TCP acknowledgement) for each '
        "128 lines; without TLS, RELP has no compression",
        acks="received",
        parts=("*/rsyslog/omrelp.so",),
        **_FOUND,
    ),
]
