"""Where a model comes from, and what it is: resolving a name to a folder, and fingerprinting its files."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Final

from pipeline.errors import JobError
from pipeline.models.checking import check_folder

BUNDLED_MODEL: Final = Path(__file__).parent.parent / "demo" / "model"
_CACHE: Final = Path.home() / ".cache" / "relatent" / "models"
# What is loaded, and so what a result depends on: weights, configurations, vocabularies.
_RELEVANT: Final = {".safetensors", ".json", ".txt"}


def resolve_model(model: str | None) -> Path:
    """Return a local folder for a model: the bundled one, a local folder, an `s3://` folder or a hub id.

    Remote folders are copied into the user's cache, again whenever one of their files was replaced.

    Raises:
        JobError: nothing usable is there.
    """
    if model is None:
        return _checked(BUNDLED_MODEL, "the bundled model")
    if "://" in model:
        return _checked(_copied(model), model)
    if Path(model).exists():
        return _checked(Path(model), model)
    return _checked(_from_hub(model), model)


def _checked(folder: Path, name: str) -> Path:
    check_folder(folder, name)
    return folder


def _copied(uri: str) -> Path:
    # The storage module is imported here alone: local models need none of it.
    from pipeline.io.storage import StorageError, copy_folder, folder_version

    try:
        target = _CACHE / hashlib.sha256(uri.rstrip("/").encode()).hexdigest()[:24] / folder_version(uri)
        if not (target / "model_index.json").exists():
            copy_folder(uri, target)
    except StorageError as error:
        raise JobError(f"model {uri}: {error}") from error
    return target


def _from_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    # The pipeline's parts in their default variant: repositories also hold the same weights in single files, in
    # other precisions, and parts that are not loaded here.
    wanted = ["*.json", "*/*.txt", "*/*.model", "*/*.safetensors"]
    unwanted = ["*.fp16.*", "*.non_ema.*", "safety_checker/*", "feature_extractor/*"]
    try:
        return Path(snapshot_download(model, allow_patterns=wanted, ignore_patterns=unwanted))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise JobError(f"model {model}: no such folder, and the hub did not give it ({reason})") from error


def model_fingerprint(model: str | None) -> str:
    """sha256 over names and contents of a model's files; equal weights in another place are equal."""
    return _fingerprint(resolve_model(model))


@lru_cache(maxsize=8)
def _fingerprint(folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*") if p.suffix in _RELEVANT and p.is_file())
    digests = {}
    for path in files:
        with path.open("rb") as handle:
            digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(handle, "sha256").hexdigest()
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
