"""A lock on a directory that ends with the process that has it, however that ends."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)


class LockedError(OSError):
    """Another process has the lock."""


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Have a lock while the block runs. The system takes it away from a process that ends, so none is left behind.

    It is ``flock``'s, which Linux passes on to the server of a network file system (NFS), so that it holds between
    machines as well. A child process does not inherit it, unless it was forked and runs no other program.

    Args:
        path: The file to lock; it and its directory are created, and the file stays. In it is who had the lock last.
        wait: Whether to wait until nobody else has it.

    Raises:
        LockedError: Another process has it.
        OSError: There can be no lock: no right to write, or a file system without locks.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory, locked(Path(directory) / "lock"):
        ...     with locked(Path(directory) / "lock"):
        ...         pass
        Traceback (most recent call last):
        visplay.data.locking.LockedError: ...
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            if not wait:
                raise LockedError(f"{str(path.parent)!r} is in use: {holder} has {path.name}") from None
            logger.info("%s is in use: %s has %s; waiting", path.parent, holder, path.name)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
