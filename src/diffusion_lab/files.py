"""Files that are whole or not there, written beside their place and moved there; and folders that are one process's."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

_held: set[int] = set()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields where to write a file of the same name, which takes its place when the block ends well.

    Whoever reads meanwhile, or after a crash at any moment, finds the old file or the new one.

    Args:
        path: of the file; its folder is made.

    Raises:
        OSError: if it could not be written, naming `path`; what stood there stands.

    Example:
        >>> with replacing(Path(tempfile.mkdtemp()) / "notes.txt") as fresh:
        ...     _ = fresh.write_text("all of it")
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
            fresh = Path(folder) / path.name
            yield fresh
            flush(fresh)
            os.replace(fresh, path)
        flush(path.parent)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def flush(path: Path) -> None:
    """Returns when a file or a folder's list of names is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def held(lock: Path) -> Iterator[int]:
    """Keeps others out of the folder of a lock while the block lasts.

    The system takes the lock from a process that dies, however it dies; a fork does not have it.

    Args:
        lock: a file, which is made and stays; what stands in it is who holds it.

    Yields:
        Its descriptor: who inherits that holds the lock, too.

    Raises:
        ValueError: if another process has it, naming that.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    _held.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{_holder(lock)}, or one that it started, is at work in '{lock.parent}': wait until it ends, stop it, "
                "or take another folder"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            warnings.warn(f"nothing keeps others out of '{lock.parent}': its file system has no locks", stacklevel=3)
        facts = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
        os.truncate(descriptor, 0)
        os.write(descriptor, json.dumps(facts).encode())
        yield descriptor
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def _holder(lock: Path) -> str:
    """Who wrote himself into a lock; he may not have come to it yet."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        facts = json.loads(lock.read_text(encoding="utf-8"))
        return f"process {facts['pid']} on {facts['host']}, since {facts['since']}"
    return "another process"


def _let_go() -> None:
    """In a fork, such as a worker that loads data: it may outlive the holder by a moment."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)
