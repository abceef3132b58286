"""Whether turbo finds what exact finds."""
