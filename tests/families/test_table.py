"""The table of families is made from what was found, and has a row for each class that validation lets in."""

from __future__ import annotations

from promptmill.pipeline.models.catalog import diffusers_source
from tests.families.__main__ import README, read_results, table


def test_the_table_is_the_one_that_was_found() -> None:
    results = read_results()
    assert table(results) in README.read_text()
    assert set(results) <= {
        n for n in diffusers_source.pipeline_modules() if diffusers_source.makes_images_from_text(n)
    }
    assert all(text == "kept" for found in results.values() for text in found.values())


def test_a_class_that_nobody_has_tried_says_so() -> None:
    assert "| Flux | not tried |" in table({})
