"""The HTTP service: accepts pictures and returns results.

It knows the store and the job repository, and never Dagster or torch.
"""
