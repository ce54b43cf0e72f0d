"""Files that are whole or not there: written beside their place, flushed to the disk, moved there."""

import os
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
