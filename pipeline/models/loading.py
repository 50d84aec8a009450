"""Where weights come from, and what they are: resolving names to folders and files, and fingerprinting those."""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from pipeline.errors import JobError
from pipeline.models.checking import check_folder, count_weights

BUNDLED_MODEL: Final = Path(__file__).parent.parent / "demo" / "model"
_CACHE: Final = Path.home() / ".cache" / "relatent" / "models"
# What is loaded, and so what a result depends on: weights, configurations, vocabularies.
_RELEVANT: Final = {".safetensors", ".json", ".txt", ".model"}
# Of a repository's files what is not loaded: other variants of the same weights, pickles, parts that are not used.
_UNWANTED: Final = ["*.fp16.*", "*.non_ema.*", "*.bin", "safety_checker/*", "feature_extractor/*"]
_SCALED: Final = re.compile(r"(?P<uri>.+):(?P<scale>[+-]?(\d+\.?\d*|\.\d+))")


def resolve_model(model: str | None) -> Path:
    """Return a local folder for a model: the bundled one, a local folder, an `s3://` folder or a hub id.

    Remote folders are copied into the user's cache, again whenever one of their files was replaced.

    Raises:
        JobError: nothing usable is there.
    """
    return BUNDLED_MODEL if model is None else _resolved("model", model, "model_index.json")


def weights_bytes(model: str | None) -> int:
    """Bytes of the weights that are loaded of a model, in single precision, as CPUs hold them.

    Raises:
        JobError: as of `resolve_model`.
    """
    folder = resolve_model(model)
    files = (path for path in folder.glob("*/*.safetensors") if not _is_unwanted(path.relative_to(folder)))
    return 4 * sum(map(count_weights, files))


def _is_unwanted(path: Path) -> bool:
    return any(path.match(pattern) for pattern in _UNWANTED)


def resolve_autoencoder(name: str) -> Path:
    """The same for an autoencoder of its own."""
    return _resolved("preview_vae", name, "config.json")


def _resolved(what: str, name: str, index: str) -> Path:
    if "://" in name:
        folder = _copied(what, name, index)
    elif Path(name).exists():
        folder = Path(name)
    else:
        folder = _from_hub(what, name, index)
    check_folder(folder, f"{what} {name}", index)
    return folder


def _copied(what: str, uri: str, index: str) -> Path:
    # The storage module is imported here alone: local models need none of it.
    from pipeline.io.folders import copy_folder, folder_version
    from pipeline.io.storage import StorageError

    try:
        target = _CACHE / hashlib.sha256(uri.rstrip("/").encode()).hexdigest()[:24] / folder_version(uri)
        if not (target / index).exists():
            with _alone(target):
                if not (target / index).exists():
                    copy_folder(uri, target)
    except (StorageError, OSError) as error:
        raise JobError(f"{what} {uri}: {error}") from error
    return target


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """As the only process of this machine: the actors of its GPUs all begin with the same model at the same time."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("w") as file:
        with suppress(OSError):  # some network file systems lock nothing: then each copies for itself
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed, or this process ends
        yield


def _from_hub(what: str, name: str, index: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    # A pipeline's parts in their default variant: repositories also hold the same weights in single files, in
    # other precisions, and parts that are not loaded here. An autoencoder has no parts.
    parts = ["*.json", "*/*.txt", "*/*.model", "*/*.safetensors"]
    wanted = parts if index == "model_index.json" else [index, "diffusion_pytorch_model*"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=_UNWANTED))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise JobError(f"{what} {name}: no such folder, and the hub did not give it ({reason})") from error


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank weights (Hu et al., 2021) to add to a model's own, `scale` times."""

    path: Path
    scale: float


def resolve_lora(text: str) -> Lora:
    """LoRA weights from `URI[:scale]`: a .safetensors file, a folder with one, or a file on `s3://`.

    Remote files are copied into the user's cache, under a name that is their content's.

    Raises:
        JobError: nothing usable is there.
    """
    uri, scale = text, 1.0
    if given := _SCALED.fullmatch(text):
        uri, scale = given["uri"], float(given["scale"])
    if "://" in uri:
        return Lora(_copied_lora(uri), scale)
    path = Path(uri)
    found = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if len(found) != 1 or found[0].suffix != ".safetensors" or not found[0].is_file():
        got = f"{len(found)} of them in a folder" if path.is_dir() else "a file" if path.exists() else "nothing"
        raise JobError(f"lora {text}: expected one .safetensors file; got {got}")
    return Lora(found[0], scale)


def _copied_lora(uri: str) -> Path:
    from pipeline.io.storage import StorageError, read_bytes, write_bytes

    if not uri.endswith(".safetensors"):
        raise JobError(f"lora {uri}: expected a .safetensors file")
    try:
        data = read_bytes(uri)
        target = _CACHE / "lora" / f"{hashlib.sha256(data).hexdigest()}.safetensors"
        if not target.exists():
            write_bytes(str(target), data)
    except StorageError as error:
        raise JobError(f"lora {uri}: {error}") from error
    return target


def model_fingerprint(model: str | None, lora: Sequence[str] = (), preview_vae: str | None = None) -> str:
    """sha256 over names and contents of a model's files; equal weights in another place are equal.

    `lora` (as in `resolve_lora`) and `preview_vae`, an autoencoder in place of the model's own, make it another model.
    """
    own = _fingerprint(resolve_model(model))
    if not lora and preview_vae is None:
        return own
    added = [(_sha256(found.path), found.scale) for found in map(resolve_lora, lora)]
    autoencoder = None if preview_vae is None else _fingerprint(resolve_autoencoder(preview_vae))
    return _digest({"model": own, "lora": added, "preview_vae": autoencoder})


@lru_cache(maxsize=8)
def _fingerprint(folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*") if p.suffix in _RELEVANT and p.is_file())
    digests = {}
    for path in files:
        digests[path.relative_to(folder).as_posix()] = _sha256(path)
    return _digest(digests)


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
