"""Ablation: which parts of the adapter and of its training improve identity similarity? Answers: docs/results.md."""
