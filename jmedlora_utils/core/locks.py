"""One process at a time in a folder: a second one is refused by name, or waits, instead of spoiling the first one's work."""

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jmedlora_utils.core.errors import JmedloraError


@contextmanager
def alone(lock: Path, what: str, wait: bool = False) -> Iterator[int]:
    """Holds a lock file while the block runs; the kernel frees it when the process ends, however it ends.

    Args:
        lock: The file; its folder is made where it is missing.
        what: What the lock guards, for the error.
        wait: Wait for a process that holds the lock, and say so, in place of refusing.

    Yields:
        The descriptor. A child process that inherits it (`subprocess.Popen(..., pass_fds=[descriptor])`) keeps the lock held until
        it ends too.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
    except OSError as error:
        raise JmedloraError(f"{lock.parent}: cannot be written ({error.strerror}); choose a folder that can") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if not wait:
                raise JmedloraError(f"{what}: another process is at work on it; wait for it to end, or stop it") from error
            print(f"{what}: another process is at work on it; waiting for it to end", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()
