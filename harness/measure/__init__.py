"""What is measured: the records, the metrics they give, the probes that read them, the store that keeps them."""
