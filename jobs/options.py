"""Options that the commands share: a configuration file, and flags that win over it."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import typer
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from jobs.exits import exits
from jobs.log import json_lines
from pipeline.config import JobConfig
from pipeline.errors import JobError

# Flag → the field of JobConfig that it sets; its help and type are the field's.
_FIELDS: Final[Mapping[str, str]] = {
    "images": "images",
    "prompts": "prompts",
    "inversions": "inversions",
    "output": "output",
    "model": "model",
    "lora": "lora",
    "preview-vae": "preview_vae",
    "preset": "preset",
    "method": "inversion.method",
    "steps": "inversion.num_inference_steps",
    "guidance-scale": "inversion.guidance_scale",
    "max-side": "max_side",
    "allow": "allow",
    "qa-margin": "qa_margin",
    "escalate": "escalate",
    "hold-structure": "edit.hold_structure",
    "hold-self-attention": "edit.hold_self_attention",
    "hold-cross-attention": "edit.hold_cross_attention",
    "variation": "edit.variation",
    "mask": "edit.mask",
    "composite": "edit.composite",
    "clip": "scores.clip",
    "dino": "scores.dino",
    "lpips": "scores.lpips",
    "limit": "limit",
    "sample": "sample",
    "budget-gpu-hours": "budget_gpu_hours",
    "gpu-hour-price": "gpu_hour_price",
    "skip-invalid": "skip_invalid",
    "batch-size": "batch_size",
    "slots": "slots",
    "row-seconds": "row_seconds",
    "actors": "actors",
    "num-gpus": "num_gpus",
    "num-cpus": "num_cpus",
    "dtype": "dtype",
    "compile": "compile",
    "log-json": "log_json",
    "redact-prompts": "redact_prompts",
    "address": "address",
}
INVERSION_FLAGS: Final = ("preset", "method", "steps", "guidance-scale", "max-side", "qa-margin", "escalate")
EDIT_FLAGS: Final = (
    "hold-structure",
    "hold-self-attention",
    "hold-cross-attention",
    "variation",
    "mask",
    "composite",
    "clip",
    "dino",
    "lpips",
)
RUN_FLAGS: Final = (
    "model",
    "lora",
    "preview-vae",
    "allow",
    "limit",
    "sample",
    "budget-gpu-hours",
    "skip-invalid",
    "batch-size",
    "slots",
    "row-seconds",
    "actors",
    "num-gpus",
    "num-cpus",
    "dtype",
    "compile",
    "log-json",
    "redact-prompts",
    "address",
)

_CONFIG: Final = Annotated[str | None, typer.Option("--config", help="YAML file of a job's options; flags win over it")]


def configured(*flags: str) -> Callable[[Callable[[JobConfig], int]], Callable[..., None]]:
    """Make a command of a function from a job's configuration to an exit code, with these flags and `--config`."""

    def decorate(function: Callable[[JobConfig], int]) -> Callable[..., None]:
        def command(config: str | None = None, **values: Any) -> None:
            exits(lambda: _run(function, config, {flag: values[_name(flag)] for flag in flags}))

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__annotations__ = {}
        # Typer reads the signature to find its options.
        command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [_parameter("config", _CONFIG), *(_parameter(_name(flag), _option(flag)) for flag in flags)]
        )
        return command

    return decorate


def _run(function: Callable[[JobConfig], int], config: str | None, flags: Mapping[str, Any]) -> int:
    logged = JobConfig(log_json=bool(flags.get("log-json")), redact_prompts=bool(flags.get("redact-prompts")))
    with json_lines(logged):  # the flags alone say so until the configuration is read
        job = read_config(config, flags)
    with json_lines(job):
        return function(job)


def read_config(uri: str | None, flags: Mapping[str, Any]) -> JobConfig:
    """The configuration of a job.

    Args:
        uri: a YAML file of JobConfig's fields.
        flags: values by flag; None where a flag was not given.

    Raises:
        JobError: the file cannot be read, or a value is not valid.
    """
    values = {} if uri is None else _read_yaml(uri)
    for flag, value in flags.items():
        if value is not None and value != []:  # a flag that may be given several times, and was not
            *groups, name = _FIELDS[flag].split(".")
            _group(values, groups)[name] = value
    try:
        return JobConfig.model_validate(values)
    except ValidationError as error:
        raise JobError(_first_line(error, uri)) from error


def _group(values: dict[str, Any], names: list[str]) -> dict[str, Any]:
    for name in names:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise JobError(f"config: expected a mapping under {name}; got {values!r}")
    return values


def _read_yaml(uri: str) -> dict[str, Any]:
    from pipeline.io.documents import compose, construct
    from pipeline.io.storage import StorageError, read_bytes  # --help needs none of it

    try:
        node = compose(read_bytes(uri).decode("utf-8-sig"))
        values = {} if node is None else construct(node)
    except (StorageError, ValueError) as error:
        raise JobError(f"config {uri}: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise JobError(f"config {uri}: expected a mapping of options; got {type(values).__name__}")
    return values


def _first_line(error: ValidationError, uri: str | None) -> str:
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"]))
    flag = next((f"--{flag}" for flag, path in _FIELDS.items() if path == field), field)
    where = f"{flag}: " if flag else ""  # what no single option is to blame for names itself
    # An unknown option's value, or a whole group whose values do not go together, would say nothing.
    got = "" if first["type"] in {"extra_forbidden", "value_error"} else f"; got {reprlib.repr(first['input'])}"
    message = first["msg"].removeprefix("Value error, ")
    return f"config{'' if uri is None else f' {uri}'}: {where}{message}{got}"


def _name(flag: str) -> str:
    return flag.replace("-", "_")


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _option(flag: str) -> Any:
    field = _field(JobConfig, _FIELDS[flag].split("."))
    default = "" if field.default in (None, ()) else f" (default: {field.default})"
    # What is on by default can only be switched off.
    names = f"--{flag}/--no-{flag}" if field.default is True else f"--{flag}"
    kind: Any = _kind(field.annotation)
    if get_origin(field.annotation) is tuple:
        kind = list[kind]
    return Annotated[kind | None, typer.Option(names, help=f"{field.description}{_choices(field.annotation)}{default}")]


def _field(model: type[BaseModel], path: list[str]) -> FieldInfo:
    field = model.model_fields[path[0]]
    if len(path) == 1:
        return field
    assert isinstance(field.annotation, type)
    return _field(field.annotation, path[1:])


def _choices(annotation: Any) -> str:
    """What a `Literal["a", "b"] | None` allows, as the end of a sentence; nothing for other types."""
    literal = next((a for a in (annotation, *get_args(annotation)) if get_origin(a) is Literal), None)
    *names, last = get_args(literal) or ("",)
    return f"; {', '.join(names)} or {last}" if names else ""


def _kind(annotation: Any) -> Any:
    """The plain type of a field's values: str of `Literal["a", "b"] | None`. pydantic checks the rest."""
    while arguments := [a for a in get_args(annotation) if a is not NoneType]:
        annotation = arguments[0]
    return annotation if isinstance(annotation, type) else type(annotation)
