"""One local Ray for all cluster tests, and a small model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from pipeline.cluster.execution import execute
from pipeline.cluster.graph import LoadEngine, load_engine
from pipeline.config import JobConfig
from pipeline.counts import Counts
from pipeline.io.run_record import Command
from pipeline.planning import read_plan
from tests.faults import Proxy, faulty
from tests.small_job import SETTINGS
from tests.small_model import save_small_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the small model."""
    return str(save_small_model(tmp_path_factory.mktemp("model") / "small"))


@pytest.fixture(scope="session")
def proxy(s3_endpoint: str) -> Iterator[Proxy]:
    """A proxy before the S3 server, which does no harm until a test wants it to."""
    with faulty(s3_endpoint, share=0) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


@pytest.fixture(scope="session")
def cluster(proxy: Proxy) -> Iterator[None]:
    """Workers inherit the environment of the cluster's start, and so find the S3 server, through its proxy."""
    yield
    ray.shutdown()


@pytest.fixture
def run(cluster: None, model: str) -> Callable[..., Counts]:
    """Run a command over the small model in this process."""

    def call(command: Command, *, load: LoadEngine = load_engine, **config: Any) -> Counts:
        values = {"model": model, "inversion": SETTINGS, "batch_size": 2, **config}
        return execute(read_plan(command, JobConfig(**values)), lambda counts: None, load=load)

    return call


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Where a job's results go."""
    return tmp_path / "out"
