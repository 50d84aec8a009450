"""relatent: text-guided editing of real photographs, in bulk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.editor import Editor

__all__ = ["Editor"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: planning and reporting need neither torch nor a model.
    if name == "Editor":
        from pipeline.editor import Editor

        return Editor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
