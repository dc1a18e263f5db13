"""At which level batches are compressed: the settings' own, or what a policy makes of what is observed."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from math import inf
from time import monotonic, time

from logbale.adaptive import AdaptiveCompression, Policy
from logbale.adaptive_balanced import BEHIND_BYTES, UNLIMITED, BalancedCompression
from logbale.compression import CompressionHandler
from logbale.config import Settings
from logbale.level_table import PRIORS
from logbale.load_meter import LoadMeter
from logbale.metrics import LevelInputs, ShipperMetrics
from logbale.protocol import Algorithm
from logbale.reports import MAX_CHANGES, Change

log = logging.getLogger("logbale.shipper")

BEHIND_INTERVAL = 0.2
"""Seconds between decisions of the balanced policy while the shipper is behind: a short run is over in five."""

RELOAD_INTERVAL = 1.0
"""Seconds after which those that wait look at their settings again."""


class LevelChoice:
    """Sets the handler's level, while run() runs."""

    def __init__(
        self,
        settings: Settings,
        policy: Policy,
        handler: CompressionHandler,
        metrics: ShipperMetrics,
        load: LoadMeter,
    ) -> None:
        """`policy` is policy_of(settings), and the handler's level first_level() of both."""
        self.changes: deque[Change] = deque(maxlen=MAX_CHANGES)
        """The last ones of the level."""
        self._settings = settings
        self._policy = policy
        self._handler = handler
        self._metrics = metrics
        self._load = load

    def follow(self, settings: Settings) -> None:
        """Other settings from now on; a new policy, which has learnt nothing yet, only where it would differ."""
        before, self._settings = self._settings, settings
        if _level_settings(settings) != _level_settings(before):
            self._policy = policy_of(settings)
            self._handler.level = self._metrics.level = first_level(settings, self._policy)
            # An adaptive one has a reason from its first decision on.
            self._metrics.level_reason = self._metrics.level_cause = "fixed"
            self._metrics.level_inputs = None

    async def run(self, *, look: Callable[[], object]) -> None:
        """Decides again and again; `look` takes a snapshot, which keeps the window of the rates, looked at or not."""
        last = -inf
        while True:
            settings = self._settings
            interval = settings.adaptive_check_interval
            looks_sooner = settings.adaptive_enabled and settings.adaptive_policy == "balanced"
            look()
            is_behind = looks_sooner and self._load.backlog_bytes >= BEHIND_BYTES
            if monotonic() >= last + interval or is_behind:
                last = monotonic()
                if settings.adaptive_enabled:
                    self._choose()
                else:
                    self._load.read_cpu()
            await asyncio.sleep(min(interval, BEHIND_INTERVAL if looks_sooner else RELOAD_INTERVAL))

    def _choose(self) -> None:
        if (sample := self._load.sample(monotonic())) is None:
            return
        self._policy.observe(sample)
        decision = self._policy.decide()
        if decision.changed:
            log.info("compression level %d: %s", decision.level, decision.reason)
            self._metrics.level_changes[decision.cause] += 1
            self.changes.append((time(), self._handler.level, decision.level, decision.reason))
        self._handler.level = self._metrics.level = decision.level
        self._metrics.level_reason, self._metrics.level_cause = decision.reason, decision.cause
        self._metrics.level_inputs = level_inputs(self._policy)


def first_level(settings: Settings, policy: Policy) -> int:
    """Before anything is observed."""
    return policy.level if settings.adaptive_enabled else settings.compression_level


def level_inputs(policy: Policy) -> LevelInputs | None:
    """What it weighs; None of one that looks at the CPU load alone."""
    if not isinstance(policy, BalancedCompression):
        return None
    return LevelInputs(
        link=policy.bandwidth if policy.bandwidth < UNLIMITED else inf,
        core_share=policy.share,
        arrivals=policy.arrivals,
        is_behind=policy.is_behind,
    )


def policy_of(settings: Settings) -> Policy:
    """One that has observed nothing yet."""
    low, high = settings.adaptive_min_level, settings.adaptive_max_level
    if settings.adaptive_policy == "cpu":
        return AdaptiveCompression(low, high, level=settings.compression_level)
    return BalancedCompression(low, high, prior=PRIORS[Algorithm.named(settings.compression_algorithm)])


def _level_settings(settings: Settings) -> tuple[object, ...]:
    """What a policy is made of."""
    return (
        settings.compression_level,
        settings.adaptive_enabled,
        settings.adaptive_policy,
        settings.adaptive_min_level,
        settings.adaptive_max_level,
    )
