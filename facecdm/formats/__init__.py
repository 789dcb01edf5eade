"""Published adapters: their families, their file formats, and the features that they read."""
