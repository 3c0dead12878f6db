"""What is kept: the sweep's folder, its copy in a bucket, MLflow, and who may write."""
