"""Where runs are executed: all that touches the insides of Dagster and Celery."""
