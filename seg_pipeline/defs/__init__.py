"""What Dagster sees: partitions, assets, jobs, sensors, schedules and the resources they use."""
