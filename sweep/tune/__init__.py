"""What runs in workers: the Ray that a sweep runs on, Ray Tune, levels and the test report."""
