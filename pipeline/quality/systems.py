"""What is compared: ways of editing, ours and other people's, and the code that decides what each of them makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from pipeline.config import PRESETS
from pipeline.keys import content_key, sha256_hex
from pipeline.methods import METHODS
from pipeline.settings import EditSettings, InversionSettings

_ROOT: Final = Path(__file__).parent.parent
_CASES: Final = ("demo/render.py", "demo/scene.py", "demo/shapes.py", "demo/surfaces.py", "quality/cases.py")
_MODEL: Final = (
    "models/attention.py",
    "models/autoencoder.py",
    "models/backbone.py",
    "models/hooks.py",
    "models/prompts.py",
    "models/stable_diffusion.py",
    "models/unet.py",
)
_ENGINE: Final = ("inversion.py", "synthesis.py", "settings.py", "editor.py", "diffusion", "methods", *_MODEL)


@dataclass(frozen=True, slots=True)
class Unedited:
    """The photograph as it is: what every measure says of not editing."""


@dataclass(frozen=True, slots=True)
class System:
    """One of ours: how images are inverted, how edits are made, and at which strength."""

    inversion: InversionSettings
    edit: EditSettings
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class PeerSystem:
    """One of other people's, by its name in `PEERS`, and its settings."""

    peer: str
    settings: Mapping[str, Any]


AnySystem = Unedited | System | PeerSystem


def own_systems() -> dict[str, System]:
    """Prompts alone, with guidance and without, prompt tuning alone, every method with default edits, every preset."""
    bare = EditSettings(mask="none", composite="none", hold_structure=0)
    return {
        "prompt-swap": System(InversionSettings(method="ddim"), bare),
        "unguided-prompt-swap": System(InversionSettings(method="ddim", guidance_scale=1.0), bare),
        "bare-prompt-tuning": System(InversionSettings(method="prompt-tuning"), bare),
        **{name: System(InversionSettings.model_validate({"method": name}), EditSettings()) for name in METHODS},
        **{name: System(preset.inversion, preset.edit) for name, preset in PRESETS.items()},
    }


def system_key(system: AnySystem) -> str:
    """Identity of what a system makes: its settings and the code behind it, and not its name."""
    if isinstance(system, System):
        settings = {
            "inversion": system.inversion.model_dump(),
            "edit": system.edit.model_dump(),
            "strength": system.strength,
        }
        return content_key({"kind": "ours", "settings": settings, "code": _code(*_CASES, *_ENGINE)})
    if isinstance(system, PeerSystem):
        code = _code(*_CASES, "models/peers.py") + version("diffusers")
        return content_key({"kind": "peer", "settings": asdict(system), "code": code})
    return content_key({"kind": "unedited", "code": _code(*_CASES)})


@lru_cache
def _code(*names: str) -> str:
    """sha256 over the sources of modules and packages of ours: changed code makes other results."""
    files = [_ROOT / "quality" / "running.py", *(file for name in names for file in _sources(_ROOT / name))]
    return sha256_hex(b"".join(file.read_bytes() for file in files))


def _sources(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]
