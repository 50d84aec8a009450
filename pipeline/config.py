"""How a job is run: presets of its settings, and every option that it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from pipeline.errors import redacted
from pipeline.records import MAX_GUIDANCE, PromptRow, Strength
from pipeline.settings import EditSettings, InversionSettings, Settings, unused_by


class Preset(Settings):
    """How images are inverted and edits are made, by one name."""

    inversion: InversionSettings
    edit: EditSettings


PresetName = Literal["fast", "balanced", "best"]
# In the order in which images that fall short go through them; `balanced` is what the settings' own defaults say.
PRESETS: Final[Mapping[PresetName, Preset]] = {
    "fast": Preset(
        inversion=InversionSettings(method="edit-friendly", num_inference_steps=20), edit=EditSettings(skip=0.15)
    ),
    "balanced": Preset(inversion=InversionSettings(), edit=EditSettings()),
    "best": Preset(inversion=InversionSettings(method="edit-friendly"), edit=EditSettings(skip=0.15)),
}


class RowDefaults(Settings):
    """What prompt rows ask for that do not say it themselves."""

    strength: Strength | Annotated[tuple[Strength, ...], Field(min_length=1)] | None = None
    negative_prompt: str | None = None
    guidance_scale: float | None = Field(None, ge=0, le=MAX_GUIDANCE)
    seed: int | None = Field(None, ge=0, lt=2**63)

    @field_validator("strength")
    @classmethod
    def _each_once(cls, value: Any) -> Any:
        """Refuse a strength that is given twice, as prompt rows do: both would be one output."""
        if isinstance(value, tuple) and len(set(value)) < len(value):
            raise ValueError(f"expected each value once; got {list(value)}")
        return value

    def of(self, row: PromptRow) -> PromptRow:
        """The row, with these where it is silent."""
        return row.model_copy(update={k: v for k, v in self if v is not None and k not in row.model_fields_set})


def _without_credentials(value: Any) -> Any:
    """Refuse what would stand in run.json and in logs."""
    if any(redacted(uri) != uri for uri in ([value] if isinstance(value, str) else value or ())):
        raise ValueError("expected no credentials in a URI; they come from the environment")
    return value


class ScoreWeights(Settings):
    """Where the weights of the networks are that score published pictures; what none are named for is not scored."""

    clip: str | None = Field(
        None, description="weights of CLIP, a folder or hub id, to score how near pictures are to their prompts"
    )
    dino: str | None = Field(
        None, description="weights of DINO, a folder or hub id, to score how far pictures' structure is from originals'"
    )
    lpips: str | None = Field(
        None, description="torchvision's squeezenet1_1, a folder or file, to score pictures' LPIPS to their originals"
    )

    _no_credentials = field_validator("clip", "dino", "lpips")(_without_credentials)

    @property
    def named(self) -> dict[str, str]:
        """The scores that weights are named for, and which."""
        return {score: name for score, name in self if name is not None}


class JobConfig(Settings):
    """Every option of a run; a YAML file of these names is what `--config` takes."""

    images: str | None = Field(None, description="image manifest, directory or glob")
    prompts: str | None = Field(None, description="prompt manifest")
    inversions: str | None = Field(None, description="an earlier output whose artifacts `edit` works from")
    output: str | None = Field(None, description="where results go: a directory or s3://bucket/prefix")
    model: str | None = Field(None, description="diffusers folder, s3:// folder or hub id; none: the bundled model")
    lora: tuple[str, ...] = Field(
        (),
        description="LoRA weights to fuse into the model, URI[:scale]: a .safetensors file, here or on s3://",
    )
    preview_vae: str | None = Field(
        None, description="tiny autoencoder (a folder of AutoencoderTiny) in the model's place, for quick previews"
    )
    preset: PresetName = Field(
        "balanced",
        description="settings by one name; every other setting wins over it. Of the bundled model's edits 72 % succeed "
        "with fast, at 0.5 s per image and edit on one CPU core, 69 % with balanced (3.6 s), 74 % with best (1.3 s)",
    )
    inversion: InversionSettings = InversionSettings()
    edit: EditSettings = EditSettings()
    row_defaults: RowDefaults = Field(
        RowDefaults(), description="strength, negative_prompt, guidance_scale and seed of prompt rows that give none"
    )
    scores: ScoreWeights = ScoreWeights()
    max_side: int = Field(
        0, ge=0, description="side of the square, in pixels, whose area the model works at; 0: the model's own"
    )
    qa_margin: float = Field(
        1.0, ge=0, description="dB that a reconstruction may fall short of the autoencoder's; beyond, it is flagged"
    )
    escalate: bool = Field(
        True, description="invert images that fall short by more than qa_margin again, as the next presets say"
    )
    allow: tuple[str, ...] = Field(
        (),
        description="a prefix of the URIs that image manifests may name; may be given again; none: their own storage's",
    )
    max_pixels: int = Field(100_000_000, ge=1, description="images that declare more pixels are refused")
    limit: int | None = Field(None, ge=1, description="only the first so many images")
    sample: int | None = Field(
        None, ge=1, description="only so many images at random, of those within the limit; the same in every run"
    )
    budget_gpu_hours: float | None = Field(
        None,
        gt=0,
        description="stop after so many GPU-hours, committing what is in the works; without GPUs, hours of actors",
    )
    gpu_hour_price: float | None = Field(None, ge=0, description="price of a GPU-hour, for the plan to name a cost")
    skip_invalid: bool = Field(False, description="run without the refused manifest rows, recording them as failures")
    batch_size: int = Field(
        32,
        ge=1,
        le=4096,
        description="images that an actor is given, and commits, together; fewer where the job then ends sooner",
    )
    slots: int = Field(
        16, ge=1, le=4096, description="images or edits in the network together; halved where its memory is too small"
    )
    row_seconds: float | None = Field(
        None,
        gt=0,
        description="seconds that an image or edit may take in the model, a batch as many times that; what hangs is "
        "cut off, and fails; none: 600 on a GPU, else no limit",
    )
    actors: int | None = Field(
        None,
        ge=1,
        description="engine actors; none: one for each GPU of the cluster, or without GPUs for each core, as many as "
        "have slots of images each, and nodes have cores and memory for",
    )
    num_gpus: float | None = Field(None, ge=0, description="GPUs per actor; none: 1 where the cluster has them, else 0")
    num_cpus: int | None = Field(
        None, ge=1, description="CPU cores per actor; none: 1 beside a GPU, else the most that all actors can have"
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="the network's precision; none: bfloat16 on a GPU, else float32"
    )
    compile: bool = Field(
        False, description="compile the network: minutes at each actor's start, then the faster on a GPU"
    )
    log_json: bool = Field(False, description="standard error is one JSON line per event, also per image and edit")
    redact_prompts: bool = Field(False, description="these lines have hashes in place of prompts, and codes alone")
    address: str | None = Field(None, description="Ray cluster to join; none: a local one")

    _no_credentials = field_validator("images", "prompts", "inversions", "output", "model", "address", "allow")(
        _without_credentials
    )

    @field_validator("num_gpus")
    @classmethod
    def _whole_or_a_part(cls, value: float | None) -> float | None:
        """Refuse what no cluster gives: Ray takes a part of one GPU, or several whole ones."""
        if value is not None and value > 1 and value % 1:
            raise ValueError(f"expected a part of 1, or a whole number; got {value:g}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any) -> Any:
        """Fill in what the preset says about settings that are not given."""
        if not isinstance(values, Mapping) or values.get("preset") not in PRESETS:
            return values
        filled, preset = dict(values), PRESETS[values["preset"]]
        for group, chosen in (("inversion", preset.inversion), ("edit", preset.edit)):
            given = values.get(group, {})
            if isinstance(given, Mapping):
                filled[group] = _beside(chosen.model_dump(exclude_unset=True), given)
        return filled

    @model_validator(mode="after")
    def _sensible(self) -> JobConfig:
        """Refuse a share of the steps, other than the preset's own, that leaves out none of them."""
        n_steps, skip = self.inversion.num_inference_steps, self.edit.skip
        if skip != PRESETS[self.preset].edit.skip and 0 < skip * n_steps < 1:
            raise ValueError(f"edit.skip: expected 0, or at least one step of {n_steps}; got {skip:g} of them")
        return self

    @property
    def escalations(self) -> Mapping[PresetName, InversionSettings]:
        """What an image that falls short is inverted with next, and next: the presets after the job's own.

        What the job says otherwise than its own preset stays under these too, guidance above all, at which edits are
        made: a job of `method: ddim` is never escalated to a fit. A preset that then says nothing new is left out, and
        so is one that it does not go with.
        """
        if not self.escalate:
            return {}
        own = PRESETS[self.preset].inversion
        given = {name: value for name, value in self.inversion if value != getattr(own, name)}
        names = list(PRESETS)
        rungs: dict[PresetName, InversionSettings] = {}
        for name in names[names.index(self.preset) + 1 :]:
            preset = PRESETS[name].inversion
            unused = unused_by(given.get("method", preset.method))
            used = {field: value for field, value in given.items() if field not in unused}
            try:
                chosen = InversionSettings.model_validate(_beside(preset.model_dump(), used))
            except ValidationError:
                continue
            if chosen not in (self.inversion, *rungs.values()):
                rungs[name] = chosen
        return rungs


def _beside(preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A preset's settings under those that are given, without what a given method has no use for."""
    unused = unused_by(given["method"]) if "method" in given else frozenset[str]()
    return {name: value for name, value in preset.items() if name not in unused} | dict(given)
