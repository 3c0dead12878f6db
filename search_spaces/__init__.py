"""What to try: sites, named allocations, the config schema, and the resolution of a YAML space to validated trials.

Nothing here imports torch or Ray, so a space can be checked on any machine in milliseconds.
"""

__version__ = "0.1.0"
