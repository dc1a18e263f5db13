"""benchmarks/adaptive_simulation.py as a module: its scenes are what the promises are made for."""

import importlib.util
import sys
from pathlib import Path

_PATH = Path(__file__).parent.parent / "benchmarks" / "adaptive_simulation.py"
_spec = importlib.util.spec_from_file_location("adaptive_simulation", _PATH)
adaptive_simulation = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = adaptive_simulation  # dataclasses look their module up
_spec.loader.exec_module(adaptive_simulation)
