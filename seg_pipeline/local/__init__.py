"""The processes of one machine, and their supervisor."""
