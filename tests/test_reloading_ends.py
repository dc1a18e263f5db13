"""Both ends follow a reload everywhere: what settings make of an end at its start, a change of them makes as well."""

import asyncio
import contextlib
import io

import msgspec
import pytest
from msgspec import inspect

from logbale.config import SETTINGS, Settings
from logbale.errors import ConfigError
from logbale.log_receiver import LogReceiver
from logbale.log_shipper import LogShipper
from logbale.sources.generator import LogGenerator
from logbale.spool import DiskSpool

FIXED = {"server_host": "127.0.0.1", "server_port": 0}


def other_value(setting):
    """Another value that it may have."""
    match setting.type:
        case inspect.BoolType():
            return not setting.default
        case inspect.LiteralType(values=values):
            return next(value for value in values if value != setting.default)
    return setting.default * 2 if setting.default else 86_400


WITH_CERTIFICATES = {"tls_bind_streams"}
"""True, it needs them."""

LIVE = {
    name: other_value(setting)
    for name, setting in SETTINGS.items()
    if setting.is_live and name not in WITH_CERTIFICATES
} | {
    "compression_level": 3,
    "spool_max_bytes": 2 << 20,
    "adaptive_min_level": 2,
    "adaptive_max_level": 4,
}
"""Every setting that changes at run time, with another value."""


TAKEN_ANEW = {
    f"{owner}._compressing._pressers[{number}].level" for owner in ("", "._relay.sink.forwarding") for number in (0, 1)
} | {"._relay.sink._marks._seen"}
"""Set before each use, whatever it is, or the second in which an end was made: the last one's may be the next."""


def values_in(thing, path="", seen=None):
    """Every number and text that hangs on an object of ours, by its path of attributes."""
    seen = set() if seen is None else seen
    if isinstance(thing, bool | int | float | str | None):
        return {path: thing}
    if id(thing) in seen:
        return {}
    seen.add(id(thing))
    if isinstance(thing, dict):
        parts = [(f"[{key!r}]", value) for key, value in thing.items() if isinstance(key, str | int)]
    elif isinstance(thing, list | tuple):
        parts = [(f"[{number}]", value) for number, value in enumerate(thing)]
    elif type(thing).__module__.startswith("logbale"):
        names = getattr(thing, "__struct_fields__", None) or vars(thing)
        parts = [(f".{name}", getattr(thing, name)) for name in names]
    else:
        return {}
    return {at: value for part, one in parts for at, value in values_in(one, path + part, seen).items()}


def assert_alike(before, twin, reloaded, fresh):
    """Whatever differs by the settings, and not by chance, is in the reloaded end as it is in the fresh one."""
    by_settings = {at for at in before if before[at] != fresh.get(at) and before[at] == twin.get(at)} - TAKEN_ANEW
    assert len(by_settings) > len(LIVE)
    assert {at: reloaded.get(at) for at in by_settings} == {at: fresh.get(at) for at in by_settings}


async def compare(ends, live=LIVE):
    """Two alike, one that reloads now, and one that began with what that reloads; all end here."""
    before = values_in(ends[0])
    ends[2].reloading.reload(msgspec.structs.replace(ends[2].settings, **live))
    for _ in range(200):  # a receiver's archive is told on its own thread
        with contextlib.suppress(AssertionError):
            assert_alike(before, *(values_in(end) for end in ends[1:]))
            break
        await asyncio.sleep(0.05)
    assert_alike(before, *(values_in(end) for end in ends[1:]))
    for end in ends:
        end.stop()
        end.stop()  # now
        await end.run()


@pytest.mark.parametrize("mode", ["on", "off"])
@pytest.mark.parametrize("spool", ["disk", "memory"])
def test_a_shipper_that_reloads_is_one_that_started_so(run, tmp_path, mode, spool):
    """Its buffer, queue, spool, link, compression and policy."""

    def shipper(name, **settings):
        settings = Settings(**FIXED | {"session_mode": mode} | settings)
        store = DiskSpool(tmp_path / name, max_bytes=settings.spool_max_bytes) if spool == "disk" else None
        if store is not None:
            store.open()
        return LogShipper(settings, LogGenerator(1, 0, seed=0), store=store)

    async def scenario():
        ends = [shipper("a"), shipper("b"), shipper("c"), shipper("d", **LIVE)]
        await compare(ends)

    run(scenario)


@pytest.mark.parametrize("sink", ["archive", "null"])
def test_a_receiver_that_reloads_is_one_that_started_so(run, tmp_path, sink):
    """Its server, archive and retention."""

    async def receiver(name, **settings):
        given = FIXED | {"sink": sink, "archive_dir": str(tmp_path / name)} | settings
        end = LogReceiver(Settings(**given), out=io.StringIO())
        await end.start()
        return end

    async def scenario():
        ends = [await receiver(name) for name in "abc"]
        ends.append(await receiver("d", **LIVE))
        await compare(ends)

    run(scenario)


def test_a_relay_that_reloads_is_one_that_started_so(run, tmp_path):
    """Its limits, its places and its sessions' settings; a policy that drops is refused, and then nothing changes."""
    live = {name: value for name, value in LIVE.items() if name != "spool_policy"}

    async def receiver(name, **settings):
        given = FIXED | {"sink": "logbale://127.0.0.1:1", "relay_dir": str(tmp_path / name)} | settings
        end = LogReceiver(Settings(**given), out=io.StringIO())
        await end.start()
        return end

    async def scenario():
        ends = [await receiver(name) for name in "abc"]
        ends.append(await receiver("d", **live))
        with pytest.raises(ConfigError, match="a relay drops nothing"):
            ends[2].reloading.reload(msgspec.structs.replace(ends[2].settings, **LIVE))
        await compare(ends, live)

    run(scenario)
