"""Prints pip's configuration as shell assignments that uv understands; what the environment sets for uv stays."""

import ast
import os
import shlex
import subprocess
import sys

NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
    "trusted-host": "UV_INSECURE_HOST",
    "timeout": "UV_HTTP_TIMEOUT",
}

found = {}
listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True).stdout
for line in listed.splitlines():
    key, _, value = line.partition("=")
    name = NAMES.get(key.rsplit(".", 1)[-1].removeprefix("default-"))
    if name:
        # A later level of pip's configuration replaces an earlier one; uv wants lists with commas or blanks as below.
        separator = "," if name == "UV_FIND_LINKS" else " "
        found[name] = separator.join(ast.literal_eval(value).split())
if "UV_INDEX" in found:
    # As pip does: the best version of all indexes, not the first index that knows the name.
    found["UV_INDEX_STRATEGY"] = "unsafe-best-match"
for name, value in found.items():
    if name not in os.environ:
        print(f"export {name}={shlex.quote(value)}")
