"""What an output says it is: an XMP packet in the terms of the IPTC Photo Metadata Standard 2025.1."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from xml.sax.saxutils import escape

_SOURCE_TYPE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
_STANDARD: Final = {"model": "Iptc4xmpExt:AISystemUsed", "prompt": "Iptc4xmpExt:AIPromptInformation"}
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# XML 1.0 cannot hold these even escaped.
_FORBIDDEN: Final = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_PACKET: Final = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmlns:relatent="https://relatent.invalid/ns/1.0/">
   <xmp:CreatorTool>relatent</xmp:CreatorTool>
   <Iptc4xmpExt:DigitalSourceType>{source_type}</Iptc4xmpExt:DigitalSourceType>
{properties}
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


def xmp(provenance: Mapping[str, str]) -> str:
    """An XMP packet that declares a composite with generated content and how it was made.

    Args:
        provenance: `model` and `prompt` become the IPTC's own properties; any other name, such as
            `edit_key`, becomes a property of this project's namespace.

    Raises:
        ValueError: a name is not a plain identifier.
    """
    lines = [_property(name, value) for name, value in provenance.items()]
    return _PACKET.format(source_type=_SOURCE_TYPE, properties="\n".join(lines))


def _property(name: str, value: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"provenance: expected a plain name; got {name!r}")
    tag = _STANDARD.get(name, f"relatent:{name}")
    text = escape(_FORBIDDEN.sub("\ufffd", value))
    return f"   <{tag}>{text}</{tag}>"
