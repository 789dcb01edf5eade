"""Three-stage training: from a folder of pictures to an adapter and a LoRA, under either host."""
