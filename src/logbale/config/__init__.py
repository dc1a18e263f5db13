"""The settings: declared once, read once at start, frozen from then on.

A flag beats the environment, which beats the TOML file, which beats the default.
"""

from logbale.config.addresses import connect_host, format_address, host_name, is_loopback, split_address
from logbale.config.fields import SETTINGS, Setting
from logbale.config.load import CONFIG_VARIABLE, Loaded, load
from logbale.config.settings import KiB, MiB, Settings, sink_names

__all__ = [
    "CONFIG_VARIABLE",
    "SETTINGS",
    "KiB",
    "Loaded",
    "MiB",
    "Setting",
    "Settings",
    "connect_host",
    "format_address",
    "host_name",
    "is_loopback",
    "load",
    "sink_names",
    "split_address",
]
