"""The settings: declared once, read at start and at each reload, frozen in between.

A flag beats the environment, which beats the TOML file, which beats the default.
"""

from logbale.config.addresses import connect_host, format_address, host_name, is_loopback, split_address
from logbale.config.fields import SETTINGS, Setting
from logbale.config.load import CONFIG_VARIABLE, Loaded, check_together, load, only_settings
from logbale.config.settings import KiB, MiB, Settings, relay_address, sink_names

__all__ = [
    "CONFIG_VARIABLE",
    "SETTINGS",
    "KiB",
    "Loaded",
    "MiB",
    "Setting",
    "Settings",
    "check_together",
    "connect_host",
    "format_address",
    "host_name",
    "is_loopback",
    "load",
    "only_settings",
    "relay_address",
    "sink_names",
    "split_address",
]
