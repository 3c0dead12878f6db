"""Many trials: the command line, the Ray Tune driver, results on disk, MLflow and the board."""
