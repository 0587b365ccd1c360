"""What looks like a secret is blanked wherever text leaves the program; our own hints are not."""

from __future__ import annotations

import pytest

from promptmill.pipeline.display import first_line, redact
from promptmill.pipeline.models.diffusion.errors import describe
from promptmill.pipeline.storage.faults import describe as of_storage


@pytest.mark.parametrize(
    "text",
    [
        "https://h/x?key=S3CRET&y=1",
        "api_key=S3CRET",
        "AWS_ACCESS_KEY=S3CRET",
        "X-Amz-Signature=S3CRET",
        "password=S3CRET",
    ],
)
def test_secrets_are_blanked(text: str) -> None:
    assert "S3CRET" not in redact(text)


def test_a_hint_with_an_equals_sign_is_left_alone() -> None:
    from promptmill.pipeline.jobfile.reader import parse_job
    from promptmill.schemas.errors import JobError

    with pytest.raises(JobError) as caught:
        parse_job("name: x\n", "job.yaml", ["foo"])
    assert "FIELD=VALUE" in redact(str(caught.value))


def test_a_secret_is_blanked_before_a_text_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one that the end of a text cuts in two, the first half stayed."""
    secret = "abcdefghijklmnopqrstuvwxyz0123456789"
    monkeypatch.setenv("MY_API_KEY", secret)
    for length in range(150, 200):
        told = first_line(Exception("x" * length + " " + secret))
        assert len(told) <= 200 and secret[:4] not in told
    error = RuntimeError("x" * 470 + " " + secret)
    assert secret[:4] not in describe(error) and secret[:4] not in of_storage(error)
