"""Locust users. Each file works unchanged from the harness, with `locust -f FILE --headless`, and in the web UI."""
