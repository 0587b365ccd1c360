"""What looks like a secret is blanked wherever text leaves the program; our own hints are not."""

from __future__ import annotations

import pytest

from promptmill.pipeline.display import redact


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
