"""What of a text was read is said in the row."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptmill.pipeline.dataset.claim import claim_output
from tests.heart import mill
from tests.heart.mill import Redness, make_missing, memory, rows, small_plan


class ShortSighted(Redness):
    """Reads two words of a caption."""

    def is_cut(self, caption: str) -> bool:
        return len(caption.split()) > 2


def test_a_caption_that_was_scored_on_a_part_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mill, "Redness", ShortSighted)
    store = memory()
    make_missing(claim_output(small_plan(tmp_path, ["a circle", "a red circle"]), store), store)
    assert [row["flags"] for row in rows(store)] == [[], [], ["caption_truncated"], ["caption_truncated"]]
