"""The arms as a table to paste: Markdown, LaTeX and CSV. What stands in it is escaped for each."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from promptmill.pipeline.storage.local import replace_file
from promptmill.schemas.proof import Proof

HEAD = ("arm", "synthetic share", "rows", "steps", "validation %", "test %", "sd")


def write_tables(proof: Proof, folder: Path) -> None:
    for name, make in (("proof.md", markdown), ("proof.tex", latex), ("proof.csv", as_csv)):
        replace_file(folder, name, make(proof).encode("utf-8"))


def markdown(proof: Proof) -> str:
    rows = [HEAD, *_rows(proof)]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|---|" + "---:|" * (len(HEAD) - 1))
    return "\n".join([*lines, "", said(proof)]) + "\n"


def latex(proof: Proof) -> str:
    lines = [" & ".join(map(_tex, row)) + r" \\" for row in (HEAD, *_rows(proof))]
    body = [r"\begin{tabular}{lrrrrrr}", r"\hline", lines[0], r"\hline", *lines[1:], r"\hline", r"\end{tabular}"]
    return "\n".join([*body, "% " + said(proof)]) + "\n"


def as_csv(proof: Proof) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([HEAD, *_rows(proof)])
    return text.getvalue()


def said(proof: Proof) -> str:
    """The verdict in one line."""
    found, how = proof.difference, proof.protocol
    interval = f"{found.mean:+.1f} points, 95 % interval {found.low:+.1f} to {found.high:+.1f}"
    pairs = f"{how.draws} paired draws × {how.initialisations} initialisations"
    return f"{proof.verdict}: {proof.chosen.synthetic_arm} against {proof.chosen.real_arm}, {interval}, {pairs}"


def _rows(proof: Proof) -> Sequence[tuple[str, ...]]:
    mark: Callable[[str], str] = lambda name: (  # noqa: E731
        f"{name} *" if name in (proof.chosen.real_arm, proof.chosen.synthetic_arm) else name
    )
    return [
        (
            mark(a.name),
            f"{a.share:g}",
            str(a.images),
            str(a.steps),
            f"{a.validation:.1f}",
            f"{a.test:.1f}",
            f"{a.test_sd:.1f}",
        )
        for a in proof.arms
    ]


def _tex(text: str) -> str:
    for sign in "&%#_$":
        text = text.replace(sign, f"\\{sign}")
    return text
