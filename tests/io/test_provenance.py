from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.io.provenance import xmp

IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
OURS = "{https://relatent.invalid/ns/1.0/}"


def test_an_output_says_that_it_is_generated() -> None:
    """The packet has the IPTC's source type, and the standard's properties for model and prompt."""
    root = ET.fromstring(xmp({"model": "sd-1.5", "prompt": "a blue mug", "edit_key": "ab12"}))
    assert _text(root, f"{IPTC}DigitalSourceType").endswith("/compositeWithTrainedAlgorithmicMedia")
    assert _text(root, f"{IPTC}AISystemUsed") == "sd-1.5"
    assert _text(root, f"{IPTC}AIPromptInformation") == "a blue mug"
    assert _text(root, f"{OURS}edit_key") == "ab12"


@given(st.text(max_size=50))
def test_any_prompt_is_well_formed_xml(prompt: str) -> None:
    """No prompt can break the packet or add elements to it."""
    root = ET.fromstring(xmp({"prompt": prompt}))
    assert len(root.findall(f".//{IPTC}*")) == 2


def test_markup_is_escaped() -> None:
    """Markup in a prompt is text."""
    prompt = "</Iptc4xmpExt:AIPromptInformation><script>&amp;"
    assert _text(ET.fromstring(xmp({"prompt": prompt})), f"{IPTC}AIPromptInformation") == prompt


def test_names_are_plain() -> None:
    """A property's name cannot smuggle markup in."""
    with pytest.raises(ValueError, match="plain name"):
        xmp({"a><b": "x"})


def _text(root: ET.Element, tag: str) -> str:
    return root.find(f".//{tag}").text or ""
