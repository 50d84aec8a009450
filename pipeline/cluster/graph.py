"""The job as a graph: fetch on CPUs, a pool of engine actors, publish on CPUs. Rows stream; stages overlap."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Final, Protocol, cast

import pyarrow as pa
import ray
import ray.data
import ray.exceptions

from pipeline.cluster import events, metrics, spans
from pipeline.cluster.ahead import OwnThread, result_of
from pipeline.cluster.session import Resources
from pipeline.cluster.tables import PART, asked_table, part_schema, schema_of, to_table
from pipeline.config import JobConfig
from pipeline.counts import Counts
from pipeline.errors import JobError, RelatentError
from pipeline.planning import Plan
from pipeline.stages.attempts import attempt
from pipeline.stages.fetch import Fetch
from pipeline.stages.limits import PICTURE_SECONDS, STORAGE_SECONDS, cut_off, seconds_for
from pipeline.stages.publish import Publish
from pipeline.stages.rows import Asked, Fetched, Made, dump, load_counts, name_of, passed_on

if TYPE_CHECKING:
    from pipeline.stages.engine import Engine

# Fetching and publishing mostly wait for the storage. Other than a whole core also keeps Ray from fusing
# them with the engine, which would end the overlap.
_WAITING_CPUS: Final = 0.5
# A batch on a slow machine may take long; Ray's own limit of half an hour would end the job.
_NO_PROGRESS_SECONDS: Final = 24 * 3600
_INIT_DEATHS: Final = 8
# Ray takes some ten milliseconds for a task, in which a row that needs nothing is looked at some hundred times.
_TASK_ROWS: Final = 2048
_TASKS: Final = 32  # that small plans are cut into, if they have as many batches
# Sharing out more evenly is not worth smaller batches, in which slots are refilled less, for less than this.
_NEARLY: Final = 1.05
# Ray looks so often whether it has something to do, while any task runs. Ten times a second takes 5 % of a core, which
# a large plan is worth, of whose many short tasks each look starts a few.
_LOOK_SECONDS: Final = 0.25
_LOOK_SECONDS_OF_MANY: Final = 0.1
_TOLD: Final = pa.schema([("counts", pa.string()), ("events", pa.list_(pa.string()))])


class LoadEngine(Protocol):
    """Makes an actor's engine, as `Engine.loaded` does."""

    def __call__(
        self, config: JobConfig, device: str | None, row_seconds: float | None, *, apart: str | None
    ) -> Engine: ...


def load_engine(config: JobConfig, device: str | None, row_seconds: float | None, *, apart: str | None) -> Engine:
    """The engine of a job's model."""
    from pipeline.stages.engine import Engine  # and with it the model's libraries

    return Engine.loaded(config, device, row_seconds, apart=apart)


def outcomes(
    plan: Plan, fetch: Fetch, publish: Publish, resources: Resources, deadline: float, load: LoadEngine
) -> Iterator[Counts]:
    """Run the job until the deadline, yielding what came of each part of its results as it is committed.

    Raises:
        JobError: the model cannot be loaded, or the output cannot be written.
    """
    config = plan.config
    run_id = uuid.uuid4().hex
    row_seconds = config.row_seconds or resources.row_seconds
    asked = asked_table(plan.images, of_artifacts=plan.command == "edit")
    batch_size = shared_batch_size(len(asked), resources.actors, config)
    blocks = _blocks(asked, batch_size)
    _configure(_LOOK_SECONDS if len(blocks) <= _TASKS else _LOOK_SECONDS_OF_MANY)
    fetched, made = (part_schema(schema_of(row, asked.schema)) for row in (Fetched, Made))
    dataset = (
        ray.data.from_arrow(blocks)
        .map_batches(
            _fetching(fetch, fetched, deadline, run_id, batch_size),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=_WAITING_CPUS,
        )
        .map_batches(
            _EngineActor,
            fn_constructor_args=(config, resources.device, row_seconds, made, deadline, run_id, load),
            # Those that no node has room for wait for one that joins, while the others work.
            compute=ray.data.ActorPoolStrategy(
                size=resources.actors,
                max_tasks_in_flight_per_actor=_in_flight(len(asked), resources.actors, batch_size),
            ),
            batch_size=1,  # a row is a batch of ours
            batch_format="pyarrow",
            num_gpus=resources.num_gpus,
            num_cpus=resources.num_cpus,
        )
        .map_batches(
            _publishing(publish, run_id, log=config.log_json),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=_WAITING_CPUS,
        )
    )
    try:
        # Prefetching would hold back what was committed until something else is.
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for row in cast("pa.Table", batch).to_pylist():
                events.tell(row["events"])
                yield load_counts(row["counts"])
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RelatentError):
            # Ray appends lines of its own advice to ours.
            raise JobError(str(error.cause).splitlines()[0]) from error
        raise


def shared_batch_size(rows: int, actors: int, config: JobConfig) -> int:
    """How many images an actor is given at a time: as many as the job says, or fewer where the job then ends sooner.

    Fewer are still some fills of the slots, since a few rows take a call of the network nearly as long as a fill does.
    """
    fills = range(config.batch_size // config.slots * config.slots, 0, -config.slots)
    sizes: list[int] = [config.batch_size, *fills]
    most = {size: _most_of_an_actor(rows, actors, size) for size in sizes}
    return next(size for size in sizes if most[size] <= _NEARLY * min(most.values()))


def _most_of_an_actor(rows: int, actors: int, size: int) -> int:
    """How many images one actor has at most, if each is given batches of `size` in its turn."""
    turns, actor = divmod(math.ceil(rows / size) - 1, actors)  # the last batch's, which may be smaller
    return size * (turns + 1) if actor else rows - size * turns * (actors - 1)


def _in_flight(rows: int, actors: int, batch_size: int) -> int:
    """How many batches an actor is given: the next beside the one that it works on, if there are more than actors.

    Else the actor that starts first would have two, and another none.
    """
    return 1 if math.ceil(rows / batch_size) <= actors else 2


def _blocks(asked: pa.Table, batch_size: int) -> list[pa.Table]:
    """The plan cut into what one task fetches: some batches, fewer where there would be few tasks.

    Ray's own repartitioning would be fused with fetching, which puts the pieces together again.
    """
    rows = max(1, min(_TASK_ROWS, len(asked) // _TASKS) // batch_size) * batch_size
    return [asked.slice(start, rows) for start in range(0, len(asked), rows)]


def _configure(look_seconds: float) -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # A batch may wait for its actor, whose node is gone, until another has a GPU to spare: others must not wait for it.
    context.execution_options.preserve_order = False
    context.raise_original_map_exception = True
    # Ray collects what a task yields into blocks of this many bytes, which reach the next stage when they are full. A
    # block of one byte is full with one row: with a fetched batch, or with a part of its results.
    context.target_max_block_size = 1
    context.execution_no_progress_timeout_s = _NO_PROGRESS_SECONDS
    # An actor loads its model with its first rows, so one that dies before them was killed: by a spot machine's end.
    context.max_consecutive_actor_init_deaths = _INIT_DEATHS
    with suppress(ImportError):  # a name of Ray's own, as no setting says this; a test holds it
        from ray.data._internal.execution import streaming_executor_state

        streaming_executor_state.WAIT_FOR_TASK_COMPLETION_TIMEOUT_S = look_seconds


def deadline_of(config: JobConfig, resources: Resources) -> float:
    """When, by the wall clock, the actors have held their GPUs for as long as the job may; an actor without counts."""
    if config.budget_gpu_hours is None:
        return math.inf
    return time.time() + config.budget_gpu_hours * 3600 / (resources.actors * (resources.num_gpus or 1))


def _fetching(
    fetch: Fetch, schema: pa.Schema, deadline: float, run_id: str, batch_size: int
) -> Callable[[pa.Table], Iterator[pa.Table]]:
    """Fetching as a function of tables. It is stored once: its indexes may be large, and workers share them.

    What needs nothing is found in a whole table at once; the rest is fetched, and handed on, batch by batch. The same
    rows then share the engine's batches in every run with as many actors, and so round in the same way.
    """
    stored = ray.put(fetch)

    def run(table: pa.Table) -> Iterator[pa.Table]:
        if time.time() > deadline:
            return
        fetch: Fetch = ray.get(stored)
        rows = cast("list[Asked]", table.to_pylist())
        with (
            metrics.stage("fetch"),
            attempt(run_id, "find", [row["image_id"] for row in rows]),
            cut_off(STORAGE_SECONDS),
        ):
            idle, others = fetch.done(rows)
        for start in range(0, len(others), batch_size):
            if time.time() > deadline:
                break
            # A table for each batch, whatever comes of it: should this process die, Ray drops as many of those that
            # the next one hands on as it has from this one.
            batch = fetched(fetch, others[start : start + batch_size])
            yield to_table([{PART: fetch.with_done_rows_as_one([*idle, *batch])}], schema)
            idle = []
        if idle:
            yield to_table([{PART: idle}], schema)

    def fetched(fetch: Fetch, rows: list[Asked]) -> list[Fetched]:
        with metrics.stage("fetch"), attempt(run_id, "fetch", [row["image_id"] for row in rows]) as deaths:
            if deaths:
                from pipeline.stages.careful import fetched_carefully  # and with it the model's libraries

                return fetched_carefully(fetch, rows, run_id)
            with cut_off(seconds_for(len(rows), PICTURE_SECONDS, STORAGE_SECONDS)):
                return fetch.each(rows)

    return run


def _publishing(publish: Publish, run_id: str, *, log: bool) -> Callable[[pa.Table], pa.Table]:
    """Publishing as a function from tables of parts to tables of their counts, and their events; stored once."""
    stored = ray.put(publish)

    def run(table: pa.Table) -> pa.Table:
        parts = cast("list[list[Made]]", table[PART].to_pylist())
        with metrics.stage("publish"), events.collected(wanted=log) as told:
            counts = [dump(published(ray.get(stored), part)) for part in parts]
        # All that the table's parts tell stands beside the first of them.
        return pa.table(
            {"counts": counts, "events": [told if i == 0 else [] for i in range(len(counts))]}, schema=_TOLD
        )

    def published(publish: Publish, rows: list[Made]) -> Counts:
        with attempt(run_id, "publish", list(map(name_of, rows))) as deaths:
            if deaths:
                from pipeline.stages.careful import published_carefully  # and with it the model's libraries

                return published_carefully(publish, rows, run_id)
            with cut_off(seconds_for(len(rows), PICTURE_SECONDS, STORAGE_SECONDS)):
                return publish(rows)

    return run


class _EngineActor:
    """A process that holds one model, loaded with the first row that needs it: a finished job loads none.

    One that was started again, because its process died, has its model in a process apart, where rows may die alone.
    The model works on while a part of its results is handed on. Past the deadline it begins no further part.
    """

    def __init__(
        self,
        config: JobConfig,
        device: str | None,
        row_seconds: float | None,
        schema: pa.Schema,
        deadline: float,
        run_id: str,
        load: LoadEngine = load_engine,
    ) -> None:
        self._load = load
        self._config = config
        self._device = device
        self._row_seconds = row_seconds
        self._schema = schema
        self._deadline = deadline
        self._run_id = run_id
        self._busy = metrics.Busy()
        self._thread = OwnThread()

    @cached_property
    def _engine(self) -> Engine:
        apart = self._run_id if ray.get_runtime_context().was_current_actor_reconstructed else None
        began = time.time()
        engine = self._load(self._config, self._device, self._row_seconds, apart=apart)
        spans.add(spans.LOAD, began, time.time())
        return engine

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        for batch in cast("list[list[Fetched]]", table[PART].to_pylist()):
            yield from self._parts(batch)

    def _parts(self, rows: list[Fetched]) -> Iterator[pa.Table]:
        work = [row for row in rows if row["status"] == "work"]
        idle = [passed_on(row) for row in rows if row["status"] != "work"]
        if idle:
            yield to_table([{PART: idle}], self._schema)
        if not work or time.time() > self._deadline:
            return
        with attempt(self._run_id, "engine", [row["image_id"] for row in work]):
            engine = result_of(self._thread.begin(lambda: self._engine))
            for part in self._thread.one_ahead(
                self._busy.over(engine(work)), until=lambda: time.time() > self._deadline
            ):
                yield to_table([{PART: part}], self._schema)
