"""The parts of benchmarks/ablation.py: which arms there are, their trainings, their pictures, and what comes out."""
