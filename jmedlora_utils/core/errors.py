"""The one error that a user of this project meets."""

from __future__ import annotations


class JmedloraError(ValueError):
    """Something the user can put right: the message names the file, line or parameter, what is wrong, and the fix.

    Write it as `<where>: <what is wrong>; <how to fix it>`. The command line prints it as one line and exits with status 1.
    """
