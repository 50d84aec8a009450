"""Everything that touches bytes outside the process: storage, manifests, images, artifacts and their indexes."""
