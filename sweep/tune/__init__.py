"""What runs on Ray: the cluster itself, Ray Tune, measured levels and the test report."""
