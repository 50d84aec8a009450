"""Model families: the only part of the project that imports diffusers and transformers."""
