"""Content keys."""

from __future__ import annotations

import json

from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.config import JobConfig
from pipeline.keys import ContentKeys, content_key, edit_identity, inversion_identity, sha256_hex
from pipeline.records import Edit
from pipeline.stages.naming import JobKeys

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.text(), _VALUES, min_size=1), st.data())
@example({"a": 'quoted "text"', "b": None}, None)
def test_what_is_written_once_gives_the_same_keys(value: dict[str, object], data: st.DataObject | None) -> None:
    """Whichever of a mapping's values vary, its key is that of its whole canonical JSON."""
    varying = list(value) if data is None else data.draw(st.lists(st.sampled_from(sorted(value)), unique=True))
    keys = ContentKeys({name: "other" if name in varying else of for name, of in value.items()}, varying)
    whole = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    expected = sha256_hex(whole.encode())
    assert keys.of(**{name: value[name] for name in varying}) == content_key(value) == expected


@given(
    prompt=st.sampled_from(["a blue mug", "a red mug"]),
    weights=st.sampled_from([None, {"mug": 2.0, "vase": 3.0}]),
    guidance_scale=st.sampled_from([None, 1.5, 4.0]),
    variation=st.sampled_from([None, 0.5]),
    mask=st.sampled_from([None, "ab" * 32]),
    deltas=st.sampled_from([(), (("blue", 1.0), ("shiny", 0.5))]),
)
def test_a_job_names_what_its_identity_says(
    prompt: str,
    weights: dict[str, float] | None,
    guidance_scale: float | None,
    variation: float | None,
    mask: str | None,
    deltas: tuple[tuple[str, float], ...],
) -> None:
    """Keys are those of identities that are written in full, whatever was named before."""
    config = JobConfig(dtype="float32")
    keys = JobKeys(config, "f" * 64)
    inversion = content_key(
        inversion_identity(
            image_sha256="01" * 32,
            source_prompt="",
            model_fingerprint="f" * 64,
            settings=config.inversion.identity(),
            escalation={"margin": 1.0, "settings": [s.identity() for s in config.escalations.values()]},
            max_side=0,
            dtype="float32",
        )
    )
    assert keys.inversion("01" * 32, None) == inversion
    controls = {"hold_structure": 0.8, "hold_self_attention": 0.0, "hold_cross_attention": 0.0}
    for text in ("another mug", prompt):
        edit = Edit(
            "e", text, 0.5, "", guidance_scale, seed=7, word_weights=weights, deltas=deltas, variation=variation
        )
        named = keys.edit(edit, inversion, "a/b", 1.5, mask)
    expected = edit_identity(
        inversion_key=inversion,
        image_id="a/b",
        edit_id="e",
        prompt=deltas or prompt,
        negative_prompt="",
        strength=0.5,
        guidance_scale=4.0 if guidance_scale == 4 else None,
        **controls,
        word_weights={"mug": 2.0} if weights and not deltas else {},
        variation=variation or 0.0,
        seed=7 if variation else None,
        mask_sha256=mask,
        settings=config.edit.model_dump(exclude={*controls, "word_weights", "variation"}),
    )
    assert named == content_key(expected)
