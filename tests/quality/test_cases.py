"""The benchmark's cases: held out, repeatable, and edited as their kind says."""

from __future__ import annotations

import pytest

from pipeline.demo.scene import VOCABULARY, random_scene
from pipeline.quality.cases import KINDS, edited_scene, held_out_cases


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_changes_what_its_kind_says(kind: str) -> None:
    """One attribute, or two of any pair; which words is the seed's."""
    pairs = set()
    for seed in range(200):
        scene = random_scene(seed)
        edited = edited_scene(scene, kind)
        changed = {name for name in VOCABULARY if getattr(scene, name) != getattr(edited, name)}
        assert changed == {kind} or (kind == "two" and len(changed) == 2)
        assert edited == edited_scene(scene, kind)
        pairs.add(frozenset(changed))
    assert len(pairs) == (10 if kind == "two" else 1)


def test_a_scene_has_every_kind_of_edit_and_their_truth() -> None:
    """Cases come scene by scene; their truth differs where it is marked, and by little anywhere else."""
    cases = held_out_cases(range(3), 32)
    assert [case.kind for case in cases] == [*KINDS] * 3
    for case in cases:
        assert case.changed.any()
        rest = abs(case.image.astype(int) - case.truth)[~case.changed]
        assert rest.size == 0 or rest.max() <= 8
        assert case.replaces_object == (case.source_prompt.split()[7:8] != case.prompt.split()[7:8])


def test_a_scene_is_the_same_in_any_company() -> None:
    """Parts of a run are comparable however it is cut."""
    together, alone = held_out_cases(range(2), 32)[len(KINDS) :], held_out_cases([1], 32)
    assert all((a.image == b.image).all() and (a.truth == b.truth).all() for a, b in zip(together, alone, strict=True))
