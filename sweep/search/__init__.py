"""Searches over masks: proposals, training and findings. Also measurements that a sweep needs before it can run."""
