"""The table of families is made from what was found, and has a row for each class that validation lets in."""

from __future__ import annotations

from tests.families.__main__ import README, offered, read_results, table


def test_the_table_is_the_one_that_was_found() -> None:
    results = read_results()
    assert table(results) in README.read_text()
    assert {row.split()[0] for row in results} <= set(offered())
    assert all(text == "kept" for found in results.values() for promise, text in found.items() if promise != "refused")


def test_a_class_that_nobody_has_tried_says_so() -> None:
    assert "| Flux | not tried |" in table({})
