"""What is measured: the records, the probes that read it, the store that keeps it."""
