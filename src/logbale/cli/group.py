"""A command that has commands: a name that none of them has is told which one is near."""

from __future__ import annotations

import click

LIKENESS = 0.5
"""By difflib, from which on a name is suggested: `sl` for `ls` is."""


class Group(click.Group):
    """click's own, but for the hint."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click has it; a usage error that names the nearest command, or all of them where none is near."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            from difflib import get_close_matches

            known = self.list_commands(ctx)
            near = get_close_matches(name, known, n=1, cutoff=LIKENESS)
            ctx.fail(
                f"No such command {name!r}. " + (f"Did you mean {near[0]}?" if near else f"Try {', '.join(known)}.")
            )
        return super().resolve_command(ctx, args)
