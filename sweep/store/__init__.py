"""Persistent results: the sweep's folder, its copy in a bucket, MLflow, and the lock of the driver."""
