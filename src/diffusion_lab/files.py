"""Files that are whole or not there, written beside their place and moved; files to read; folders of one process."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
import stat
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


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal; a large one is read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache() -> Path:
    """Where what this machine has made for itself is kept, in the user's own cache.

    Raises:
        RuntimeError: the user has neither XDG_CACHE_HOME nor a home.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffusion_lab"


def content(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        FileNotFoundError: there is nothing of that name.
        OSError: it cannot be read, or is no file: a link that leads nowhere, a folder, or a pipe, for which a reader
            would wait for ever. Its message is the reason alone.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
            raise OSError(f"it is {kinds.get(stat.S_IFMT(mode), 'a device')} and no file")
        return path.read_bytes()
    except OSError as error:
        if error.errno is None:
            raise
        if error.errno == errno.ELOOP:
            raise OSError("it is a link that leads back to itself") from None
        if path.is_symlink() and isinstance(error, FileNotFoundError):
            raise OSError(f"it is a link to {os.readlink(path)}, which is not there") from None
        raise type(error)(error.strerror) from None


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
