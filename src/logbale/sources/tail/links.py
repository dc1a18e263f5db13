"""Which links on the way to a file are not followed: a planted one would have us ship what its owner cannot read.

A link is believed that belongs to root, to this process's user, or to the owner of what it leads to: as Linux's
protected_symlinks and Apache's SymLinksIfOwnerMatch have it. Links of Kubernetes, logrotate and administrators are of
that kind; one to /etc/shadow in a directory that a web server's user may write to is not.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque

from logbale.sources.tail.identity import Identity

MAX_LINKS = 40
"""On one way: the kernel's own limit."""


def planted_link(path: str, identity: Identity) -> str | None:
    """The first link on the way to `path` that is not believed; `path` itself where it leads elsewhere by now.

    None where all is well. Called when the file is open already, with what that is: whoever changes the way between
    our looks gets a file that is not read. Raises OSError.
    """
    believed = {0, os.geteuid()}
    place, left, links = "/", deque(os.path.abspath(path).split("/")), 0
    while left:
        name = left.popleft()
        if name in ("", "."):
            continue
        if name == "..":
            place = os.path.dirname(place)
            continue
        here = os.path.join(place, name)
        status = os.lstat(here)
        if not stat.S_ISLNK(status.st_mode):
            place = here
            continue
        if status.st_uid not in believed and os.stat(here).st_uid != status.st_uid:
            return here
        if (links := links + 1) > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = os.readlink(here)
        left.extendleft(reversed(target.split("/")))
        if target.startswith("/"):
            place = "/"
    return None if Identity.of(os.lstat(place)) == identity else path
