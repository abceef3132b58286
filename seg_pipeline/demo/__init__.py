"""Generated scenes, small models trained on them, and the measure of how well they do."""
