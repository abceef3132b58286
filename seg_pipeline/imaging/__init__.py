"""Arithmetic on pictures and masks: reading, writing, cutting, drawing, merging."""
