"""Three-stage training of an adapter and a LoRA from a folder of pictures, under either host."""
