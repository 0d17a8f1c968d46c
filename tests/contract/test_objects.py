"""Objects of the embedded AWS: kept on disk, as long as they are there, and read as they were."""

import boto3

from local.instance import Instance


def test_an_object_is_a_file_and_its_versions_are_read_as_they_were(
    embedded_endpoint: str,
    embedded_instance: Instance,
    aws_environment: None,  # noqa: ARG001
) -> None:
    s3 = boto3.client("s3", endpoint_url=embedded_endpoint)
    s3.create_bucket(Bucket="objects")
    s3.put_bucket_versioning(Bucket="objects", VersioningConfiguration={"Status": "Enabled"})
    bodies = [b"first" * 1000, b"second" * 1000]
    key = "readings/day=2026-11-21/hour=10/archive-1.gz"
    versions = [s3.put_object(Bucket="objects", Key=key, Body=body) for body in bodies]
    for body, version in zip(bodies, versions, strict=True):
        found = s3.get_object(Bucket="objects", Key=key, VersionId=version["VersionId"])
        assert found["Body"].read() == body
    assert s3.get_object(Bucket="objects", Key=key)["Body"].read() == bodies[-1]
    (file,) = embedded_instance.folder.rglob(f"objects/{key}")
    assert file.read_bytes() == bodies[-1]
    s3.put_bucket_versioning(Bucket="objects", VersioningConfiguration={"Status": "Suspended"})
    s3.delete_object(Bucket="objects", Key=key, VersionId=versions[-1]["VersionId"])
    assert s3.get_object(Bucket="objects", Key=key)["Body"].read() == bodies[0]
