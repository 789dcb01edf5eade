"""The triplet adapter: projectors, interplay, gates, attention. Plain torch, without hosts or file formats."""
