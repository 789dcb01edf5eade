"""The triplet adapter: projectors, interplay, gates, attention. Plain torch: no host and no file format of others."""
