"""The sides `peers.py` and `training.py` measure: ours, and what others would write; imported when run."""
