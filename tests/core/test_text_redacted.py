import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pythia_quant.core.text import Redacting, redacted, redacted_traceback

URL = "https://bucket.s3.amazonaws.com/a/b?X-Amz-Credential=AKIA%2F2026&X-Amz-Signature=0123abcd"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("token hf_abcdefGHIJ1234 is", "token hf_… is"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: …"),
        ("{'authorization': 'Bearer secretsecret'}", "{'authorization': '…'}"),
        ("[(b'Authorization', b'Bearer secretsecret')]", "[(b'Authorization', b'…')]"),
        (f"PUT {URL} 503", "PUT https://bucket.s3.amazonaws.com/a/b?… 503"),
        (f"for url '{URL}'\n", "for url 'https://bucket.s3.amazonaws.com/a/b?…'\n"),
        ("b'/a/b?X-Amz-Signature=0123abcd&x=1'", "b'/a/b?X-Amz-Signature=…&x=1'"),
        ("https://host/path#part and hf_ and a?b", "https://host/path#part and hf_ and a?b"),
    ],
)
def test_secrets_are_left_out_and_the_rest_stays(text: str, left: str) -> None:
    assert redacted(text) == left


AROUND = st.text(alphabet=" '\"\n\t:=,;()[]{}<>/?&#-_", max_size=6)


@given(AROUND, st.text(alphabet="abcXYZ019", min_size=8), AROUND)
def test_a_token_goes_whatever_it_stands_between(before: str, secret: str, after: str) -> None:
    assert secret not in redacted(f"{before}hf_{secret}{after}")
    assert secret not in redacted(f"{before}https://host/path?key={secret}{after}")


def test_log_records_and_their_exceptions_are_redacted(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("test_redaction")
    redacting = Redacting()
    logger.addFilter(redacting)
    try:
        try:
            raise ValueError(URL)
        except ValueError:
            logger.exception("failed with %s", "hf_abcdefGHIJ1234")
    finally:
        logger.removeFilter(redacting)
    assert "failed with hf_…" in caplog.text
    assert "ValueError: https://bucket.s3.amazonaws.com/a/b?…" in caplog.text
    assert "0123abcd" not in caplog.text


def test_a_traceback_is_redacted_with_its_causes() -> None:
    try:
        try:
            raise ValueError(URL)
        except ValueError as cause:
            raise RuntimeError("Bearer abcdefgh") from cause
    except RuntimeError as error:
        said = redacted_traceback(error)
    assert said.count("Traceback") == 2
    assert "0123abcd" not in said
    assert "abcdefgh" not in said
