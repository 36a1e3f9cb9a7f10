"""Teaches a network one's own classes: a probe on frozen features, fine-tuning, or training from scratch."""
