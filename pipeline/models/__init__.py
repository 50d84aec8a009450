"""Model families: the only part of the project that imports diffusers and transformers."""

from __future__ import annotations

import os

# Both libraries speak up as they are imported, about optional packages that nothing here needs.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
