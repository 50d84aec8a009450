"""The job as a graph: fetch on CPUs, a pool of engine actors, publish on CPUs. Rows stream; stages overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, cast

import pyarrow as pa
import ray
import ray.data
import ray.exceptions

from pipeline.cluster.session import Resources
from pipeline.cluster.tables import asked_table, schema_of, to_table
from pipeline.config import JobConfig
from pipeline.errors import JobError, RelatentError
from pipeline.planning import Counts, Plan
from pipeline.stages.fetch import Fetch
from pipeline.stages.publish import Publish
from pipeline.stages.rows import Fetched, Made, Outcome, load_counts, passed_on

if TYPE_CHECKING:
    from pipeline.stages.engine import Engine

# Fetching and publishing mostly wait for the storage. Other than a whole core also keeps Ray from fusing
# them with the engine, which would end the overlap.
_WAITING_CPUS: Final = 0.5
# A batch on a slow machine may take long; Ray's own limit of half an hour would end the job.
_NO_PROGRESS_SECONDS: Final = 24 * 3600


def outcomes(plan: Plan, fetch: Fetch, publish: Publish, resources: Resources) -> Iterator[Counts]:
    """Run the job, yielding what came of each row as it is committed.

    Raises:
        JobError: the model cannot be loaded, or the output cannot be written.
    """
    _configure()
    config = plan.config
    asked = asked_table(plan.images, of_artifacts=plan.command == "edit")
    fetched, made, outcome = (schema_of(row, asked.schema) for row in (Fetched, Made, Outcome))
    dataset = (
        ray.data.from_arrow(_blocks(asked, config.batch_size))
        .map_batches(_task(fetch, fetched), batch_size=None, batch_format="pyarrow", num_cpus=_WAITING_CPUS)
        .map_batches(
            _EngineActor,
            fn_constructor_args=(config, resources.device, made),
            compute=ray.data.ActorPoolStrategy(size=config.actors),
            batch_size=config.batch_size,
            batch_format="pyarrow",
            num_gpus=resources.num_gpus,
            num_cpus=resources.num_cpus,
        )
        .map_batches(_task(publish, outcome), batch_size=None, batch_format="pyarrow", num_cpus=_WAITING_CPUS)
    )
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in cast("pa.Table", batch).to_pylist():
                yield load_counts(row["counts"])
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RelatentError):
            # Ray appends lines of its own advice to ours.
            raise JobError(str(error.cause).splitlines()[0]) from error
        raise


def _blocks(asked: pa.Table, rows: int) -> list[pa.Table]:
    """The plan cut into engine batches.

    A task's results reach the next stage, and so are committed, when its block is done. Ray's own
    repartitioning would be fused with fetching, which puts the pieces together again.
    """
    return [asked.slice(start, rows) for start in range(0, len(asked), rows)]


def _configure() -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # The same rows then share the engine's batches in every run, and so round in the same way.
    context.execution_options.preserve_order = True
    context.raise_original_map_exception = True
    context.execution_no_progress_timeout_s = _NO_PROGRESS_SECONDS


def _task(stage: Callable[[Any], Sequence[Any]], schema: pa.Schema) -> Callable[[pa.Table], pa.Table]:
    """A stage as a function of tables. It is stored once: its indexes may be large, and workers share them."""
    stored = ray.put(stage)

    def run(table: pa.Table) -> pa.Table:
        return to_table(ray.get(stored)(table.to_pylist()), schema)

    return run


class _EngineActor:
    """A process that holds one model, loaded with the first row that needs it: a finished job loads none."""

    def __init__(self, config: JobConfig, device: str | None, schema: pa.Schema) -> None:
        self._config = config
        self._device = device
        self._schema = schema

    @cached_property
    def _engine(self) -> Engine:
        from pipeline.stages.engine import Engine  # and with it the model's libraries

        return Engine.loaded(self._config, self._device)

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        rows = cast("list[Fetched]", table.to_pylist())
        work = [row for row in rows if row["status"] == "work"]
        idle = [passed_on(row) for row in rows if row["status"] != "work"]
        yield to_table(idle, self._schema)
        for part in self._engine(work) if work else ():
            yield to_table(part, self._schema)
