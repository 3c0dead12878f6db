"""One trial: model, corpus, TEAL, SPON, teacher, loss, evaluation, baselines and checkpoint.

Nothing here imports Ray except ``ray_trainable``, the thin adapter that Ray Tune runs, and ``listener``, which tells
the driver what a worker does.
"""
