"""Where the weights of scores are, found without torch: what is not there shows before anything is made."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from pipeline.config import ScoreWeights
from pipeline.errors import JobError

_HEADS: Final = "functional/image/lpips_models/squeeze.pth"


def missing_weights(weights: ScoreWeights) -> dict[str, str]:
    """Why a score will be missing, in one line, by its name. What is there may still turn out to be damaged."""
    missing: dict[str, str] = {}
    for score, name in weights.named.items():
        try:
            if score == "lpips":
                backbone_file(name), heads_file()
            else:
                check_named(score, name)
        except JobError as error:
            missing[score] = str(error)
    return missing


def check_named(score: str, name: str) -> None:
    """Refuse what can only be a folder, and is none; anything else may be a hub's.

    Raises:
        JobError: there is no such folder.
    """
    if name.startswith(("/", ".", "~")) and not Path(name).is_dir():
        raise JobError(f"{score} {name}: no such folder")


def backbone_file(path: str) -> Path:
    """The file of LPIPS's backbone: the path itself, or the one in the folder that it names.

    Raises:
        JobError: there is none.
    """
    given = Path(path)
    found = sorted(given.glob("squeezenet1_1*.safetensors")) + sorted(given.glob("squeezenet1_1*.pth"))
    if given.is_file():
        return given
    if not found:
        raise JobError(f"lpips {path}: expected torchvision's squeezenet1_1 as .safetensors or .pth; got no such file")
    return found[0]


def heads_file() -> Path:
    """The file of LPIPS's heads, which torchmetrics has.

    Raises:
        JobError: torchmetrics is not installed.
    """
    # The package is asked only where it is: importing it takes seconds.
    package = find_spec("torchmetrics")
    if package is None or package.origin is None:
        raise JobError("lpips: torchmetrics is not installed: pip install 'relatent[metrics]'")
    return Path(package.origin).parent / _HEADS
