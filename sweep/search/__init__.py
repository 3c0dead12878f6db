"""Searches for masks: what they propose, train and find; and what must be measured before a sweep can run."""
