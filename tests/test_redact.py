"""What looks like a secret is blanked wherever text leaves the program; help texts are not."""

from __future__ import annotations

import pytest

from pipeline.redact import redact


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


def test_help_is_left_alone() -> None:
    assert redact("expected KEY=VALUE such as generation.guidance_scale=3.5") == (
        "expected KEY=VALUE such as generation.guidance_scale=3.5"
    )
