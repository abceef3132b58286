"""Compares what turbo finds with what exact finds."""
