"""Segmentation as a pipeline: an image in, its segments out, every step visible in Dagster."""
