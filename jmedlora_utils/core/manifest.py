"""SHA-256 sums of committed evidence: one `manifest.json` in its folder, checked whenever the evidence is read.

`python -m jmedlora_utils.core.manifest FOLDER ...` writes it anew, after a table was changed by hand.
"""

import sys
from pathlib import Path

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError, exit_status
from jmedlora_utils.core.records import read_json, sha256_file, write_json

MANIFEST = "manifest.json"
NOT_LISTED = (MANIFEST, "README.md")


def write_manifest(folder: Path) -> Path:
    """Writes the SHA-256 of every file below the folder but its README, by its path in the folder."""
    sums = {name: sha256_file(folder / name) for name in _files(folder)}
    return write_json(folder / MANIFEST, sums)


def check_manifest(folder: Path) -> None:
    """Compares the evidence with its manifest.

    Raises:
        JmedloraError: The evidence or its manifest is missing, or a file is missing, changed or not listed; names the first one.
    """
    shown = paths.relative(folder) if folder.is_relative_to(paths.ROOT) else str(folder)
    restore = f"restore it with `git checkout -- {shown}`"
    there = _files(folder)
    if not (folder / MANIFEST).is_file():
        if there:
            raise JmedloraError(f"{shown}/{MANIFEST}: missing, so the evidence cannot be checked; {restore}")
        raise JmedloraError(f"{shown}: no evidence is here; {restore}, or run the preset and use source='run' (`make reproduce`)")
    try:
        sums = dict(read_json(folder / MANIFEST))
    except (ValueError, TypeError) as error:
        raise JmedloraError(f"{shown}/{MANIFEST}: not a JSON object of sums ({error}); {restore}") from error
    for name in sorted({*sums, *there}):
        if name not in there:
            raise JmedloraError(f"{shown}/{name}: the file is missing from the evidence; {restore}")
        if name not in sums:
            raise JmedloraError(f"{shown}/{name}: not part of the evidence; delete it, or freeze the evidence again")
        if sha256_file(folder / name) != sums[name]:
            raise JmedloraError(f"{shown}/{name}: its content differs from the sum in {MANIFEST}; {restore}")


def _files(folder: Path) -> list[str]:
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in found if name not in NOT_LISTED and not any(part.startswith(".") for part in name.split("/")))


if __name__ == "__main__":
    sys.exit(exit_status(lambda: print(*map(write_manifest, map(Path, sys.argv[1:])), sep="\n")))
