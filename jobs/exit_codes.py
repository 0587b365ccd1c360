"""Exit codes that no error has."""

from typing import Final

SOME_FAILED: Final = 3
