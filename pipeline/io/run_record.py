"""`run.json`: which job an output's last run is of, and how far it came."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ValidationError

from pipeline.config import JobConfig
from pipeline.errors import JobError
from pipeline.io.layout import run_record_uri
from pipeline.io.storage import StorageError, read_bytes
from pipeline.io.uris import canonical

Command = Literal["run", "invert", "edit"]
_COMMANDS: Final[tuple[Command, ...]] = ("run", "invert", "edit")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a run.json says.

    Attributes:
        finished: whether the run came to its end; otherwise it goes on, or was ended.
        images, edits: how many were asked for.
        config: the job's options as they were recorded.
    """

    command: Command
    finished: bool
    images: int
    edits: int
    config: Mapping[str, Any]

    def job(self, output: str) -> JobConfig:
        """The job's options, for an output that may have moved since.

        Raises:
            JobError: another version wrote them.
        """
        try:
            return JobConfig.model_validate({**self.config, "output": output})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise JobError(
                f"{run_record_uri(output)}: config.{where}: {first['msg']}; give the command itself"
            ) from error


def read_record(output: str) -> RunRecord | None:
    """What an output's run.json says; None where there is none.

    Raises:
        JobError: it is not one of this project's.
        StorageError: the storage does not answer.
    """
    uri = run_record_uri(output)
    try:
        values = json.loads(read_bytes(uri))
        command = _COMMANDS[_COMMANDS.index(values["command"])]
        # Earlier versions wrote it at the end alone.
        finished = values.get("state", "finished") == "finished"
        asked = values["counts" if finished else "planned"]
        return RunRecord(command, finished, int(asked["images"]), int(asked["edits"]), dict(values["config"]))
    except StorageError as error:
        if error.missing:
            return None
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise JobError(f"{uri}: expected a job's record ({type(error).__name__}: {error})") from error


def recorded(config: JobConfig) -> dict[str, Any]:
    """A job's options as they are recorded: as JSON has them, and local paths so that they hold in any directory."""
    located = {
        "images": config.images and canonical(config.images),
        "prompts": config.prompts and canonical(config.prompts),
        "inversions": config.inversions and canonical(config.inversions),
        "model": _located(config.model),
        "preview_vae": _located(config.preview_vae),
        "lora": [canonical(uri) for uri in config.lora],
        "scores": {score: _located(name) for score, name in config.scores},
        "allow": [canonical(prefix) for prefix in config.allow],
    }
    return config.model_dump(mode="json") | located


def _located(name: str | None) -> str | None:
    """A network's name may be a folder's, or one of a hub's."""
    return canonical(name) if name is not None and Path(name).exists() else name
