"""Ways to reach a peer. Each implements the Protocols of `base.py` and nothing else knows which one is in use."""
