"""The HTTP service: accepts pictures and returns results.

It knows the store and the inbox, and never Dagster or torch.
"""
