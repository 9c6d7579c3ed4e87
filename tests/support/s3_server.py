"""A real S3 API on loopback: moto's server, a process of its own."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
from prefect_server import wait_for

BUCKET = "store"


@contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """Start a server with an empty bucket; yield what reaches it, as an environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port]
    with (
        (folder / "s3.log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as server,
    ):
        try:
            wait_for(lambda: _listens(int(port)), (folder / "s3.log").read_text)
            reach = {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "AWS_ACCESS_KEY_ID": "tests",
                "AWS_SECRET_ACCESS_KEY": "tests",
                "AWS_DEFAULT_REGION": "us-east-1",
                # The machine's own accounts and roles are not asked.
                "AWS_CONFIG_FILE": os.devnull,
                "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
                "AWS_EC2_METADATA_DISABLED": "true",
            }
            client(reach).create_bucket(Bucket=BUCKET)
            yield reach
        finally:
            server.terminate()


def client(reach: dict[str, str]):
    """Return a client of Amazon's, which knows nothing of this project or fsspec."""
    return boto3.client(
        "s3",
        endpoint_url=reach["AWS_ENDPOINT_URL"],
        aws_access_key_id=reach["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=reach["AWS_SECRET_ACCESS_KEY"],
        region_name=reach["AWS_DEFAULT_REGION"],
    )


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
