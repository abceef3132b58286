"""Reads what each file format declares, from its bytes before any decoder sees them.

Every function reads a bounded number of parts, so that a hostile file costs no more than an honest
one.
"""
