"""The nouns that travel between stages: manifest rows, edits, and what came of them. Immutable values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from pipeline.errors import CODES, RowError

MIN_STRENGTH, MAX_STRENGTH = -1.0, 3.0
MAX_GUIDANCE = 30.0
MIN_WEIGHT, MAX_WEIGHT = -2.0, 10.0

_Id = Annotated[str, StringConstraints(min_length=1, max_length=512)]
_Text = Annotated[str, StringConstraints(max_length=10_000)]
_Prompt = Annotated[str, StringConstraints(min_length=1, max_length=10_000, pattern=r"\S")]
Strength = Annotated[float, Field(ge=MIN_STRENGTH, le=MAX_STRENGTH, allow_inf_nan=False)]
# From the lower bound of Prompt-to-Prompt (Hertz et al., 2022, section 3.2) up; its upper one, 2, would be too tight
# for words that a model hardly attends to.
WordWeights = dict[
    Annotated[str, StringConstraints(min_length=1, max_length=512)],
    Annotated[float, Field(ge=MIN_WEIGHT, le=MAX_WEIGHT, allow_inf_nan=False)],
]


class ImageRow(BaseModel):
    """One row of an image manifest. Columns beyond these are carried through to every output row."""

    model_config = ConfigDict(frozen=True, extra="allow")

    image_id: _Id = Field(description="unique; also the folder of its outputs under images/")
    image_uri: _Text = Field(min_length=1, description="where the bytes are; relative to the manifest's folder")
    source_prompt: _Text | None = Field(None, description="what the photograph shows")
    mask_uri: _Text | None = Field(None, description="an image, white where the edit may change pixels")

    @property
    def carried(self) -> dict[str, Any]:
        """The columns that are the user's own."""
        return dict(self.model_extra or {})


class PromptRow(BaseModel):
    """One row of a prompt manifest; without `image_id` and `where` it applies to every image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    edit_id: _Id = Field(description="unique; also the folder of its outputs under images/<image_id>/")
    prompt: _Prompt = Field(description="the target; may name columns of the image row as {column}")
    strength: Strength | Annotated[tuple[Strength, ...], Field(min_length=1)] = Field(
        1.0, description="0 is the original, 1 the prompt; a list makes one output each"
    )
    negative_prompt: _Text | None = Field(None, description="what to steer away from")
    guidance_scale: float | None = Field(
        None, ge=0, le=MAX_GUIDANCE, allow_inf_nan=False, description="none: as fitted"
    )
    hold_structure: float | None = Field(
        None, ge=0, le=1, allow_inf_nan=False, description="share of the steps that keep shapes; none: the job's"
    )
    hold_self_attention: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="share of the steps that keep self-attention; none: the job's",
    )
    hold_cross_attention: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="share of the steps that keep cross-attention; none: the job's",
    )
    word_weights: WordWeights | None = Field(
        None, description="factors of the attention to words of the prompt; none: the job's"
    )
    seed: int | None = Field(None, ge=0, lt=2**63, description="none: from the edit key")
    image_id: _Id | None = Field(None, description="only this image")
    where: dict[str, Any] | None = Field(None, description="only images whose columns have these values")

    @property
    def strengths(self) -> tuple[float, ...]:
        """The strengths asked for, always as a tuple."""
        return self.strength if isinstance(self.strength, tuple) else (self.strength,)


@dataclass(frozen=True, slots=True)
class Edit:
    """One output asked for: image × prompt row × strength, with every `{column}` filled in."""

    edit_id: str
    prompt: str
    strength: float
    negative_prompt: str = ""
    guidance_scale: float | None = None
    hold_structure: float | None = None
    seed: int | None = None
    hold_self_attention: float | None = None
    hold_cross_attention: float | None = None
    word_weights: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A manifest row that is not valid: where it stands and why."""

    file: str
    line: int
    reason: str
    row_id: str | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Failure:
    """One image (`edit_id` is None) or edit that failed, and what is known about it."""

    image_id: str
    edit_id: str | None
    strength: float | None
    stage: str
    code: str
    message: str
    retryable: bool

    @classmethod
    def of(cls, error: Exception, image_id: str, edit: Edit | None = None) -> Failure:
        """Describe an exception; one that is not a `RowError` is internal, and its message names its type."""
        if isinstance(error, RowError):
            code, message = error.code, str(error)
        else:
            code, message = "internal", f"{type(error).__name__}: {error}"
        return cls(
            image_id=image_id,
            edit_id=edit.edit_id if edit else None,
            strength=edit.strength if edit else None,
            stage=CODES[code].stage,
            code=code,
            message=message,
            retryable=CODES[code].retryable,
        )
