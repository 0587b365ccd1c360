"""Run on the cluster before the command, by whatever Python is there: `same_version.py VERSION`. Ends with 2 where it
has another version of promptmill, or none."""

import sys
from importlib.metadata import PackageNotFoundError, version


def found() -> str:
    try:
        return version("promptmill")
    except PackageNotFoundError:
        return ""


if __name__ == "__main__" and found() != sys.argv[1]:
    has = f"has promptmill {found()}" if found() else "does not have promptmill"
    hint = "install the same version on all nodes, or give --ship"
    print(f"error: {sys.executable} on the cluster {has}, and whoever submits {sys.argv[1]}: {hint}", flush=True)
    sys.exit(2)
