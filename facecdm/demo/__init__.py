"""The embedded demo model: a small text-to-image model of FaceWorld portraits, and its training."""
