"""The exception behind every error that a user sees, and how a command prints it."""

import sys
from collections.abc import Callable


class JmedloraError(ValueError):
    """Something the user can put right: the message names the file, line or parameter, what is wrong, and the fix.

    Write it as `<where>: <what is wrong>; <how to fix it>`. The command line prints it as one line and exits with status 1.
    """


def exit_status(command: Callable[[], object]) -> int:
    """Runs a command and returns its exit status; what the user can put right becomes one line on stderr.

    Returns:
        1 after a `JmedloraError` or an error of the file system (full disk, no permission), 130 after Ctrl-C.
    """
    try:
        done = command()
    except JmedloraError as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return done if isinstance(done, int) else 0


def _refuse(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 1
