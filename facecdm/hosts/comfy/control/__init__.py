"""ControlNets that read face tokens, and LoRAs for ControlNets."""
