"""What is run: Locust users (load/), pyperf benchmarks (micro/), study files (studies/)."""
