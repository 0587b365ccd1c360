"""Run on the cluster before the command, by whatever Python is there: `same_version.py VERSION`. Ends with 2 where it
has another version of promptmill, or none, or lacks what that imports."""

import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version


def found(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def lacking() -> list[str]:
    """Requirements that are not there in any version; those of extras are not needed."""
    needed = [text for text in requires("promptmill") or () if "extra ==" not in text]
    return [text for text in needed if not found(re.split(r"[^A-Za-z0-9._-]", text)[0])]


def problem(wanted: str) -> str:
    here = found("promptmill")
    if here != wanted:
        has = f"has promptmill {here}" if here else "does not have promptmill"
        return f"{has}, and whoever submits {wanted}: install the same version on all nodes, or give --ship"
    if missing := lacking():
        packages = " ".join(f"'{each}'" for each in missing)
        return f"lacks what promptmill imports, which --ship does not send: on all nodes, pip install {packages}"
    return ""


if __name__ == "__main__" and (text := problem(sys.argv[1])):
    print(f"error: {sys.executable} on the cluster {text}", flush=True)
    sys.exit(2)
