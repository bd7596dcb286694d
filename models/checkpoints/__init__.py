"""Checkpoints of anybody's training scripts, read without running them, into a network."""
