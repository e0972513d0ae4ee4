"""Locust users. Each workload works unchanged from the harness, with `locust -f FILE --headless`, and in the web UI.

The shapes ramp, spike and stairs stand beside one: `locust -f surge.py,ramp.py`.
"""
