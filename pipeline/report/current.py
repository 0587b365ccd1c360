"""Whether the report that is there says what there is."""

from __future__ import annotations

from typing import Final

from promptmill.pipeline.storage.store import Store

_PAGE: Final = ("report/summary.json", "report/index.html")
_OF_IT: Final = ("data", "receipts", "scores")


def is_current(store: Store) -> bool:
    """Whether nothing that a report is made of is younger than it; no where the store does not say how old they are."""
    pages = [store.entry(key) for key in _PAGE]
    written = [page.modified for page in pages if page is not None and page.modified is not None]
    if len(written) < len(_PAGE):
        return False
    there = (entry.modified for folder in _OF_IT for entry in store.list(folder))
    return all(modified is not None and modified <= min(written) for modified in there)
