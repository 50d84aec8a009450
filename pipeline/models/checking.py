"""Whether a model folder holds weights, configurations and vocabularies and nothing else, before anything loads it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open

from pipeline.errors import JobError

_PICKLES: Final = {".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle", ".msgpack", ".h5"}
_CODE: Final = {".py", ".pyc", ".so", ".dll", ".dylib", ".pyd"}
_MOST_JSON: Final = 64 << 20
# Far beyond any network's; a vocabulary has 50,000 to 300,000 words, a schedule 1000 timesteps.
_LARGEST: Final = 1 << 20
_MOST_LAYERS: Final = 1000
_MOST_TIMESTEPS: Final = 100_000
# What makes a configuration ask for code, or for a file of its own choice.
_CODE_KEYS: Final = ("auto_map", "custom_pipelines", "trust_remote_code")
# Parts that have weights and are loaded.
_NETWORK: Final = re.compile(r"unet|transformer(_\d)?|vae|text_encoder(_\d)?")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# Part of a pipeline → the classes that it can be of, as `model_index.json` writes them: library and class.
_CLASSES: Final = (
    (r"(unet|transformer)(_\d)?", r"diffusers \w+Model"),
    (r"vae", r"diffusers \w*(Autoencoder|Decoder)\w*"),
    (r"scheduler", r"diffusers \w+Scheduler"),
    (r"tokenizer(_\d)?", r"transformers \w+Tokenizer(Fast)?"),
    (r"text_encoder(_\d)?", r"transformers \w+"),
    (r"\w+", r"(diffusers|transformers|stable_diffusion) \w+"),
)


def check_folder(folder: Path, what: str, index: str) -> None:
    """Refuse a diffusers folder without its `index`, or with more than data, or data that is not what it says.

    Loads nothing. Pickles beside safetensors weights are left alone: they are never loaded.

    Raises:
        JobError: code; links that lead out of the folder; a part whose weights are pickles only; damaged safetensors;
            configurations that are no JSON, name classes of other libraries or files elsewhere, or declare sizes of
            no real network.
    """
    for problem in _problems(folder, index):
        raise JobError(f"{what}: {problem}")


def _problems(folder: Path, index: str) -> Iterator[str]:
    if not (folder / index).is_file():
        yield f"expected a diffusers folder with {index}; got none in {folder}"
    paths = sorted(folder.rglob("*"))
    for path in paths:
        where = path.relative_to(folder).as_posix()
        if path.is_symlink() and not _is_inside(path, folder):
            yield f"expected files of the folder itself; got a link out of it, {where}"
        if path.suffix in _CODE:
            yield f"expected weights and configurations; got code, {where}"
        part = path.parent.relative_to(folder).as_posix()
        pickled = path.suffix in _PICKLES and (_NETWORK.fullmatch(part) or (part == "." and index == "config.json"))
        if pickled and not any(path.parent.glob("*.safetensors")):
            yield f"expected safetensors weights; got {where}"
    for path in paths:
        where = path.relative_to(folder).as_posix()
        if path.suffix == ".json" and path.is_file():
            yield from (f"{where}: {problem}" for problem in _json_problems(path))
        if path.suffix == ".safetensors" and (problem := _damage(path)):
            yield f"{where}: {problem}"


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether a link stays in the folder or, in a snapshot of the hub's cache, among the files of its repository."""
    folder = folder.absolute()
    roots = [folder.resolve()]
    if folder.parent.name == "snapshots":
        roots.append((folder.parent.parent / "blobs").resolve())
    target = path.resolve()
    return target.exists() and any(target.is_relative_to(root) for root in roots)


def _json_problems(path: Path) -> Iterator[str]:
    if path.stat().st_size > _MOST_JSON:
        yield f"expected at most {_MOST_JSON} bytes of JSON; got {path.stat().st_size}"
        return
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        yield f"not JSON ({' '.join(str(error).split())[:100]})"
        return
    if path.name == "model_index.json":
        yield from _index_problems(values)
    elif path.name.endswith(".index.json"):
        yield from _shard_problems(values)
    elif path.name.endswith("config.json"):
        yield from _config_problems(values, sizes=path.name in {"config.json", "scheduler_config.json"})


def _index_problems(values: Any) -> Iterator[str]:
    if not isinstance(values, dict):
        yield "expected an object"
        return
    for name, value in values.items():
        if name == "_class_name" and not (isinstance(value, str) and _NAME.fullmatch(value)):
            yield f"expected the name of a pipeline of diffusers; got {str(value)[:100]!r}"
        if isinstance(value, list) and value not in ([None, None], []):
            wanted = next((classes for part, classes in _CLASSES if re.fullmatch(part, name)), "")
            if not re.fullmatch(wanted, " ".join(map(str, value))):
                yield f"{name[:100]}: expected a class of diffusers or transformers for it; got {str(value)[:100]}"
    yield from _config_problems(values, sizes=False)


def _shard_problems(values: Any) -> Iterator[str]:
    shards = values.get("weight_map") if isinstance(values, dict) else None
    for shard in set(map(str, shards.values())) if isinstance(shards, dict) else ():
        if Path(shard).name != shard:
            yield f"expected files of the folder; got {shard[:100]!r}"


def _config_problems(values: Any, *, sizes: bool) -> Iterator[str]:
    if not isinstance(values, dict):
        yield "expected an object"
        return
    for name, value in values.items():
        if name in _CODE_KEYS and value:
            yield f"expected no code of its own; got {name}"
        if name.endswith("_file") and not (value is None or (isinstance(value, str) and Path(value).name == value)):
            yield f"{name}: expected a file of the folder; got {str(value)[:100]!r}"
        most = _MOST_LAYERS if re.search("layers|blocks", name) else _LARGEST
        most = _MOST_TIMESTEPS if name == "num_train_timesteps" else most
        if sizes and (largest := _largest(value)) > most:
            yield f"{name}: expected at most {most}; got {largest:g}"


def _largest(value: Any) -> float:
    """The largest number among a configuration's value and its members, or their count if that is more."""
    if isinstance(value, dict | list):
        members = value.values() if isinstance(value, dict) else value
        return max([len(value), *map(_largest, members)])
    return min(abs(value), 1e300) if isinstance(value, int | float) else 0  # no float holds the largest integers


def _damage(path: Path) -> str | None:
    try:
        with safe_open(path, "np"):  # torch takes seconds to import, and plans check folders, too
            return None
    except (SafetensorError, OSError) as error:
        return f"not a whole safetensors file ({' '.join(str(error).split())[:100]})"


def check_sizes(folder: Path, name: str) -> None:
    """Refuse a model whose configurations describe more weights than its files hold, before memory is given to them.

    Loaders would invent what is missing, or leave it without data.

    Raises:
        JobError: they do, or they describe no network.
    """
    index = json.loads((folder / "model_index.json").read_bytes())
    for part, value in index.items():
        config = folder / part / "config.json"
        if not (isinstance(value, list) and value[0] in {"diffusers", "transformers"} and config.is_file()):
            continue
        try:
            described = _described(value[0], value[1], config)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise JobError(f"model {name}: {part}/config.json: expected a {value[1]}; got {reason}") from error
        held = sum(map(count_weights, (folder / part).glob("*.safetensors")))
        if described > held:
            raise JobError(
                f"model {name}: {part}: expected {described} weights, as config.json says; files hold {held}"
            )


def _described(library: str, class_name: str, config: Path) -> int:
    import diffusers
    import torch
    import transformers

    kind: Any = getattr({"diffusers": diffusers, "transformers": transformers}[library], class_name)
    with torch.device("meta"):
        if library == "diffusers":
            module = kind.from_config(json.loads(config.read_bytes()))
        else:
            module = kind(kind.config_class.from_dict(json.loads(config.read_bytes())))
    return sum(parameter.numel() for parameter in module.parameters())


def count_weights(path: Path) -> int:
    """How many numbers a safetensors file holds."""
    with safe_open(path, "np") as file:
        return sum(math.prod(file.get_slice(tensor).get_shape()) for tensor in file.keys())  # noqa: SIM118 - no dict
