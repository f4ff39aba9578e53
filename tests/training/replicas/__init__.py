"""A few steps on one device and on several logical CPUs; run as a process of its own.

Logical devices must be made before TensorFlow starts. `python -m tests.training.replicas WHAT`
prints one JSON line.
"""
