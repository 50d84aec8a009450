"""The nouns that travel between stages: manifest rows, edits, and what came of them. Immutable values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from pipeline.errors import CODES, RowError, shown

MIN_STRENGTH, MAX_STRENGTH = -1.0, 3.0
MAX_GUIDANCE = 30.0
MIN_WEIGHT, MAX_WEIGHT = -2.0, 10.0

_Id = Annotated[str, StringConstraints(min_length=1, max_length=512)]
_Text = Annotated[str, StringConstraints(max_length=10_000)]
_Prompt = Annotated[str, StringConstraints(min_length=1, max_length=10_000, pattern=r"\S")]


def _no_boolean(value: Any) -> Any:
    """Refuse what Python would take for 0 or 1, also in a list or mapping."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
    if any(isinstance(one, bool) for one in values):
        raise ValueError("expected a number")
    return value


Interpolation = Literal["towards-target", "source-to-target"]
MaskKind = Literal["auto", "attention", "both", "none"]
GivenMask = Literal["replace", "intersect"]
LatentCells = Annotated[int, Field(ge=0, le=64)]
FadedCells = Annotated[float, Field(ge=0, le=64, allow_inf_nan=False)]
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


class Delta(BaseModel):
    """One of several changes that make one edit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: _Prompt = Field(description="the target of this change; may name columns of the image row as {column}")
    strength: Strength = Field(1.0, description="its own strength, which the row's scales")

    _numbers = field_validator("strength", mode="before")(_no_boolean)


# Settings of all of a job's edits that a prompt row may have of its own, beside its controls.
OF_ONE_EDIT: Final = ("interpolation", "mask", "mask_grow", "mask_feather", "mask_given")

# Prompts, columns filled in, each with a strength of its own.
Deltas = tuple[tuple[str, float], ...]


class PromptRow(BaseModel):
    """One row of a prompt manifest; without `image_id` and `where` it applies to every image.

    It says what it asks for either in `prompt` or, where one image is to take several changes, in `edits`.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={"oneOf": [{"required": ["prompt"]}, {"required": ["edits"]}]},
    )

    edit_id: _Id = Field(description="unique; also the folder of its outputs under images/<image_id>/")
    prompt: _Prompt | None = Field(None, description="the target; may name columns of the image row as {column}")
    edits: Annotated[tuple[Delta, ...], Field(min_length=1)] | None = Field(
        None, description="instead of `prompt`: several changes at once, each with a strength of its own"
    )
    strength: Strength | Annotated[tuple[Strength, ...], Field(min_length=1)] = Field(
        1.0, description="0 is the original, 1 the prompt or the edits as they say; a list makes one output each"
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
    variation: float | None = Field(
        None, ge=0, le=1, allow_inf_nan=False, description="share of fresh noise in the steps; none: the job's"
    )
    seed: int | None = Field(
        None, ge=0, lt=2**63, description="of the noise that a variation draws; none: from the edit key"
    )
    interpolation: Interpolation | None = Field(
        None, description="how strengths move embeddings (edit.interpolation); none: the job's"
    )
    mask: MaskKind | None = Field(None, description="where the edit acts (edit.mask); none: the job's")
    mask_grow: LatentCells | None = Field(None, description="latent cells by which it grows; none: the job's")
    mask_feather: FadedCells | None = Field(None, description="cells over which its edge fades; none: the job's")
    mask_given: GivenMask | None = Field(None, description="what becomes of a given mask; none: the job's")
    image_id: _Id | None = Field(None, description="only this image")
    where: dict[str, Any] | None = Field(None, description="only images whose columns have these values")

    _numbers = field_validator(
        "strength",
        "guidance_scale",
        "hold_structure",
        "hold_self_attention",
        "hold_cross_attention",
        "word_weights",
        "variation",
        "seed",
        "mask_grow",
        "mask_feather",
        mode="before",
    )(_no_boolean)

    @model_validator(mode="after")
    def _asks_in_one_way(self) -> PromptRow:
        if self.prompt is None and self.edits is None:
            raise ValueError("prompt: required, and not given, nor are edits")
        if self.prompt is not None and self.edits is not None:
            raise ValueError("edits: expected either a prompt or edits; got both")
        if self.edits and (self.word_weights or self.hold_cross_attention):
            name = "word_weights" if self.word_weights else "hold_cross_attention"
            raise ValueError(f"{name}: expected a prompt, whose words have places; got edits")
        return self

    @property
    def deltas(self) -> tuple[Delta, ...]:
        """What is asked for, always as changes: a prompt is one at full strength."""
        return self.edits or (Delta(prompt=self.prompt or ""),)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of edits that it has values of its own for."""
        return {name: value for name in OF_ONE_EDIT if (value := getattr(self, name)) is not None}

    @property
    def text(self) -> str:
        """What is asked for, to be read."""
        return self.prompt or joined([(delta.prompt, delta.strength) for delta in self.deltas])

    @property
    def strengths(self) -> tuple[float, ...]:
        """The strengths asked for, always as a tuple."""
        return self.strength if isinstance(self.strength, tuple) else (self.strength,)


def joined(deltas: Iterable[tuple[str, float]]) -> str:
    """Several prompts and their strengths as one text to be read."""
    return " + ".join(f"{strength:g} × {prompt}" for prompt, strength in deltas)


@dataclass(frozen=True, slots=True)
class Edit:
    """One output asked for: image × prompt row × strength, with every `{column}` filled in.

    Where `deltas` are asked for at once, `prompt` only says them in one line. `settings` are those in `OF_ONE_EDIT`
    that are not the job's.
    """

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
    deltas: Deltas = ()
    variation: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A manifest row that is not valid: where it stands and why."""

    file: str
    line: int
    reason: str
    row_id: str | None = None

    def __str__(self) -> str:
        return shown(f"{self.file}:{self.line}: {self.reason}")


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
            code, message = "internal", shown(f"{type(error).__name__}: {error}")
        return cls(
            image_id=image_id,
            edit_id=edit.edit_id if edit else None,
            strength=edit.strength if edit else None,
            stage=CODES[code].stage,
            code=code,
            message=message,
            retryable=CODES[code].retryable,
        )
