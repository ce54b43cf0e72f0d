"""Files that are whole or not there: written beside their place, flushed to the disk, moved there; and read."""

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
