"""What each file format says of itself, read from its bytes before any decoder sees them.

Every function looks at a bounded number of parts, so that a hostile file costs no more than an
honest one.
"""
