"""logbale: presses log entries into compressed batches, ships them over one TCP connection, and stores them.

The names below are the public ones. Each is imported when it is first asked for: who ships needs no web server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from logbale.adaptive import AdaptiveCompression
    from logbale.batch_buffer import BatchBuffer
    from logbale.compression import CompressionHandler
    from logbale.config import Settings
    from logbale.dashboard.server import DashboardServer
    from logbale.errors import LogbaleError
    from logbale.log_receiver import LogReceiver
    from logbale.log_shipper import LogShipper
    from logbale.metrics import ReceiverMetrics, ShipperMetrics
    from logbale.models import LogEntry
    from logbale.protocol import Algorithm, FrameDecoder, encode_frame
    from logbale.ship_report import ShipReport
    from logbale.sources.generator import LogGenerator
    from logbale.sources.stdin import StdinSource
    from logbale.sources.tail import TailSource
    from logbale.tcp_client import TCPClient
    from logbale.tcp_server import TCPLogReceiver

__version__ = "0.1.0"

__all__ = [
    "AdaptiveCompression",
    "Algorithm",
    "BatchBuffer",
    "CompressionHandler",
    "DashboardServer",
    "FrameDecoder",
    "LogEntry",
    "LogGenerator",
    "LogReceiver",
    "LogShipper",
    "LogbaleError",
    "ReceiverMetrics",
    "Settings",
    "ShipReport",
    "ShipperMetrics",
    "StdinSource",
    "TCPClient",
    "TCPLogReceiver",
    "TailSource",
    "__version__",
    "encode_frame",
]

_MODULES = {
    "AdaptiveCompression": "adaptive",
    "Algorithm": "protocol",
    "BatchBuffer": "batch_buffer",
    "CompressionHandler": "compression",
    "DashboardServer": "dashboard.server",
    "FrameDecoder": "protocol",
    "LogEntry": "models",
    "LogGenerator": "sources.generator",
    "LogReceiver": "log_receiver",
    "LogShipper": "log_shipper",
    "LogbaleError": "errors",
    "ReceiverMetrics": "metrics",
    "Settings": "config",
    "ShipReport": "ship_report",
    "ShipperMetrics": "metrics",
    "StdinSource": "sources.stdin",
    "TCPClient": "tcp_client",
    "TCPLogReceiver": "tcp_server",
    "TailSource": "sources.tail",
    "encode_frame": "protocol",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'logbale' has no attribute {name!r}")
    value = getattr(import_module(f"logbale.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
